"""Where a run that begins has its parameters from, if not from a draw."""

import dataclasses
import functools
from collections.abc import Callable

import jax
from flax import linen as nn

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.train import state as train_state
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.restoring import restore_params
from taskmoe_jax.train.run_directory import Run, load_run
from taskmoe_jax.train.state import TrainState
from taskmoe_jax.train.transfer import transfer


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialParameters:
  """Parameters of a checkpoint of another run, to begin with.

  Step and optimizer begin anew. See `train.transfer` for models that differ.

  Attributes:
    run_dir: That run's directory; None draws all parameters.
    step: Which of its checkpoints; the newest unless given.
    include: A regular expression that is searched in paths of parameters; those
      without it are drawn.
  """

  run_dir: str | None
  step: int | None
  include: str

  def fill(
    self,
    state: TrainState,
    run: Run,
    program: Program,
    say: Callable[[str], None],
  ) -> TrainState:
    """Replaces what was drawn, and says by what.

    Raises:
      TaskMoeError: The other run does not fit; says in what.
    """
    if self.run_dir is None:
      return state
    other = load_run(self.run_dir)
    self._check_vocabulary(run, other)
    boxed = train_state.abstract_params(
      Transformer(other.model, len(other.task_space.tasks))
    )
    shapes = train_state.with_shardings(
      nn.unbox(boxed),
      train_state.parameter_shardings(boxed, program.partitioning),
    )
    source, step = restore_params(self.run_dir, shapes, self.step)
    if run.task_space.tasks != other.task_space.tasks:
      # Rows of these tables are tasks.
      for name in ("encoder", "decoder"):
        source[name].pop("task_table", None)
    move = functools.partial(
      transfer,
      source_model=other.model,
      target_model=run.model,
      include=self.include,
    )
    taken = ()

    def build(source, target):
      nonlocal taken
      params, taken = move(source, target=target)
      return params

    params = jax.jit(build, out_shardings=program.shardings.params)(
      source, state.params
    )
    total = len(jax.tree.leaves(params))
    say(
      f"{len(taken)} of {total} parameters are those of step {step} in"
      f" {self.run_dir}; the others are drawn, and the optimizer begins anew"
    )
    return state.replace(params=params)

  def _check_vocabulary(self, run: Run, other: Run) -> None:
    if run.vocabulary.checksum != other.vocabulary.checksum:
      raise TaskMoeError(
        f"INITIAL_RUN={self.run_dir!r} has another vocabulary, of"
        f" {len(other.vocabulary)} pieces where this one has"
        f" {len(run.vocabulary)}: its tables are of other words. Set VOCABULARY"
        f" to {self.run_dir}/vocabulary.model."
      )

"""A training step on a mesh: what it computes, and how it is sharded."""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from jaxtyping import PyTree

from taskmoe_jax import axes
from taskmoe_jax.models import parameters
from taskmoe_jax.models.losses import Objective
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.dispatch import Choice, Phase, choose_engine
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.train.optimizers import OptimizerMaker, make_optimizer
from taskmoe_jax.train.step import state as train_state
from taskmoe_jax.train.step.microbatches import rows_together
from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.train.step.step import TrainStep


@dataclasses.dataclass(frozen=True)
class Program:
  """All that is known of a training run before any number is computed.

  Attributes:
    step: What to compute.
    partitioning: The mesh.
    params: Shapes and logical axes of the parameters, boxed.
    shardings: The shardings of the state.
  """

  step: TrainStep
  partitioning: Partitioning
  params: PyTree
  shardings: TrainState

  @classmethod
  def of(
    cls,
    run: Run,
    optimizer: OptimizerMaker,
    partitioning: Partitioning,
    *,
    rows_per_task_group: int,
    num_microbatches: int,
    objective: Objective,
    histograms_every: int | None = None,
  ) -> "Program":
    """Builds it; see `train.loop.train` and `Monitoring` for the arguments."""
    model = Transformer(run.model, len(run.task_space.tasks))
    params = parameters.abstract_params(model)
    tuned = make_optimizer(optimizer, train_state.stacked_axes(params))
    step = TrainStep(
      model=model,
      optimizer=tuned,
      task_space=run.task_space,
      rows_per_task_group=rows_per_task_group,
      objective=objective,
      seed=run.seed,
      num_microbatches=num_microbatches,
      histograms_every=histograms_every,
    )
    shardings = train_state.state_shardings(params, tuned, partitioning)
    return cls(step, partitioning, params, shardings)

  @property
  def num_parameters(self) -> int:
    return parameters.parameter_count(self.params)

  def dispatch_choices(self, num_rows: int) -> dict[str, Choice]:
    """Which engine each MoE stack trains with, and why."""
    stacks = {
      "encoder": self.step.model.config.encoder,
      "decoder": self.step.model.config.decoder,
    }
    parts = self.step.num_microbatches
    with activate(self.partitioning):
      together = rows_together(num_rows, parts, self.step.rows_per_task_group)
      return {
        name: choose_engine(
          stack.moe,
          Phase.TRAIN,
          num_rows=num_rows // parts,
          rows_per_task_group=together,
        )
        for name, stack in stacks.items()
        if stack.moe is not None
      }

  def initial_state(self) -> TrainState:
    return train_state.initial_state(
      self.step.model, self.step.optimizer, self.shardings, self.step.seed
    )

  def abstract_state(self) -> TrainState:
    return train_state.abstract_state(
      self.params, self.step.optimizer, self.shardings
    )

  def compiled_step(self) -> Callable:
    rows = self.partitioning.sharding(axes.ACT_BATCH)
    return compile_step(self.step, self.shardings, rows)

  def on_devices(
    self, batch: Mapping[str, np.ndarray], num_rows: int | None = None
  ) -> dict[str, jax.Array]:
    """Spreads the rows of a batch over the devices.

    Args:
      batch: All its rows, or those of this process' devices.
      num_rows: Number of rows of all processes together; unless given, these
        are all.
    """
    return {
      name: self.partitioning.spread_rows(rows, num_rows)
      for name, rows in batch.items()
    }


def compile_step(
  step: Callable, shardings: TrainState, batch_sharding: jax.sharding.Sharding
) -> Callable:
  """Jits a step; the old state's memory is given to the new one.

  Args:
    step: Such as `TrainStep`.
    shardings: The shardings of the state.
    batch_sharding: The sharding of every array of a batch.
  """
  return jax.jit(
    step,
    in_shardings=(shardings, batch_sharding),
    # Metrics are replicated, so that every process can report them.
    out_shardings=(shardings, shardings.step),
    donate_argnums=0,
  )

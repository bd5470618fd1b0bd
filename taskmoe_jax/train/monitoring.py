"""What is monitored while a run trains."""

import dataclasses
from collections.abc import Callable

from etils import epath

from taskmoe_jax.data.corpus import Corpus
from taskmoe_jax.errors import check_at_least
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.train.hooks.evaluator import Evaluation, EvaluationPolicy
from taskmoe_jax.train.hooks.hook import Hook
from taskmoe_jax.train.hooks.profiling import Trace, TracedSteps
from taskmoe_jax.train.hooks.reporting import Histograms
from taskmoe_jax.train.hooks.throughput import Goodput, Memory
from taskmoe_jax.train.metrics.metric_writer import Sink
from taskmoe_jax.train.metrics.tensorboard import TensorBoard
from taskmoe_jax.train.metrics.weights_and_biases import WeightsAndBiases
from taskmoe_jax.train.program import Program


@dataclasses.dataclass(frozen=True, kw_only=True)
class Monitoring:
  """What to monitor while a run trains.

  Attributes:
    evaluation: How often the run is evaluated, and on how much.
    trace: Which steps `jax.profiler` traces.
    histograms_every: Steps between histograms of parameters and gradients; None
      for none.
    wandb_project: The project of Weights & Biases to report to, if any.
  """

  evaluation: EvaluationPolicy
  trace: TracedSteps
  histograms_every: int | None
  wandb_project: str | None

  def __post_init__(self):
    if self.histograms_every is not None:
      check_at_least(1, "Monitoring", histograms_every=self.histograms_every)

  def hooks(
    self,
    run: Run,
    run_dir: epath.PathLike,
    corpus: Corpus,
    program: Program,
    *,
    lengths: tuple[int, int],
    done: int,
    say: Callable[[str], None],
  ) -> list[Hook]:
    """Hooks that add to reports: those of every run, and what is asked for.

    Args:
      run: What is trained.
      run_dir: The run's directory.
      corpus: Its validation parts are read.
      program: How it is trained.
      lengths: Tokens of a source row and of a target row.
      done: Steps done before.
      say: Prints a line.
    """
    found: list[Hook] = [Goodput(), Memory()]
    if self.trace.first_step is not None:
      found.append(Trace(run_dir, self.trace, done=done, say=say))
    if self.histograms_every is not None:
      found.append(Histograms(self.histograms_every))
    if self.evaluation.every_steps is not None:
      found.append(
        Evaluation(
          self.evaluation,
          run=run,
          program=program,
          corpus=corpus,
          source_length=lengths[0],
          target_length=lengths[1],
        )
      )
    return found

  def sinks(
    self, run: Run, run_dir: epath.PathLike, resume_step: int
  ) -> list[Sink]:
    """Where reports are written besides `metrics.jsonl`."""
    folder = epath.Path(run_dir) / "tensorboard"
    found: list[Sink] = [TensorBoard(folder, resume_step=resume_step)]
    if self.wandb_project is not None:
      found.append(
        WeightsAndBiases(
          run_dir, project=self.wandb_project, config=run.description()
        )
      )
    return found

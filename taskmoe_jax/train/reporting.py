"""The hooks that make a report, and those that hand it out."""

from collections.abc import Callable, Sequence

import jax
import rich.console
from etils import epath

from taskmoe_jax.train.histograms import histogram_report, histograms_of
from taskmoe_jax.train.hooks import Hook, Moment
from taskmoe_jax.train.metric_writer import MetricWriter, Sink
from taskmoe_jax.train.metrics import MetricSums
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.progress import Progress
from taskmoe_jax.train.run_directory import Run


class ReportEvery(Hook):
  """Asks for a report every so many steps, and at the last."""

  def __init__(self, log_every: int):
    self._log_every = log_every

  def after_step(self, moment: Moment) -> None:
    at_last = moment.done == moment.last_step
    if at_last or moment.done % self._log_every == 0:
      moment.report_due = True


class StepReports(Hook):
  """What the steps measured, as `train.metrics` sums it up."""

  def __init__(self, run: Run):
    self._sums = MetricSums(run.model, run.task_space)

  def after_step(self, moment: Moment) -> None:
    self._sums.add(moment.metrics)
    if moment.report_due:
      moment.report |= self._sums.report()


class DataReports(Hook):
  """What the data's position says: it counts from the beginning of the run."""

  def after_step(self, moment: Moment) -> None:
    if moment.report_due:
      pairs = moment.position["pairs"].values()
      for name in ("examples", "skipped_too_long"):
        moment.report[f"data/{name}"] = sum(pair[name] for pair in pairs)


class Histograms(Hook):
  """Reports every so many steps how numbers are spread.

  Those of each parameter, and of its gradients, which the step has counted.
  """

  def __init__(self, every_steps: int):
    self._every_steps = every_steps

  def after_step(self, moment: Moment) -> None:
    if moment.done % self._every_steps == 0:
      moment.report |= histogram_report(
        "parameters", _histograms_of(moment.state.params)
      )
      moment.report |= histogram_report("gradients", moment.metrics.gradients)


_histograms_of = jax.jit(histograms_of)


class WriteReports(Hook):
  """Writes every report to the run directory; see `train.metric_writer`."""

  def __init__(
    self, run_dir: epath.PathLike, first_step: int, sinks: Sequence[Sink]
  ):
    self._writer = MetricWriter(run_dir, resume_step=first_step, sinks=sinks)
    self._last = first_step

  def after_step(self, moment: Moment) -> None:
    if moment.done <= self._last:
      # The run went back: what was said of these steps is taken back as well.
      self._writer.go_back(moment.done - 1)
    self._last = moment.done
    if moment.report:
      self._writer.write(moment.done, moment.report)

  def close(self) -> None:
    self._writer.close()


class ShowReports(Hook):
  """Shows how far the run is; see `train.progress`."""

  def __init__(
    self, last_step: int, first_step: int, console: rich.console.Console
  ):
    self._progress = Progress(last_step, first_step, console)
    self._progress.__enter__()

  def after_step(self, moment: Moment) -> None:
    if moment.report_due:
      self._progress.report(moment.done, moment.report)

  def close(self) -> None:
    self._progress.__exit__()


def say_what_is_trained(
  say: Callable[[str], None],
  run: Run,
  run_dir: epath.PathLike,
  program: Program,
  batch_size: int,
) -> None:
  """Prints sizes, mesh and run directory, and how experts are reached."""
  say(
    f"{program.num_parameters / 1e6:.1f}M parameters,"
    f" {len(run.task_space.pairs)} pairs, {len(run.task_space.tasks)} tasks,"
    f" mesh {dict(program.partitioning.mesh.shape)}, run directory {run_dir}"
  )
  for stack, choice in program.dispatch_choices(batch_size).items():
    say(f"{stack} experts by {choice}")

"""The hooks that make a report, and those that hand it out."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import rich.console
import rich.progress
from etils import epath

from taskmoe_jax.runs.directory import Run
from taskmoe_jax.train.hooks.hook import Hook, Moment, Place, examples_read
from taskmoe_jax.train.metrics.metric_sums import MetricSums
from taskmoe_jax.train.metrics.metric_writer import MetricWriter, Sink
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.step.gradient_statistics import (
  histogram_report,
  histograms_of,
)

# Metrics that a person follows, and their number of digits.
_SHOWN = {
  "loss": 3,
  "accuracy": 3,
  "eval/loss": 3,
  "eval/bleu": 1,
  "mfu": 3,
}


class Progress:
  """Shows step, loss, speed and the time left; a context manager.

  On a terminal it is one bar that is redrawn in place; elsewhere each report
  is a line, such as

    step 200/2000  loss 3.214  accuracy 0.412  12.3k tokens/s  ETA 4:10

  The time left is estimated from the steps since the first report, because
  earlier steps include compilation.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int,
    console: rich.console.Console,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Prepares a bar from `start_step`, where a resumed run continues.

    Args:
      total_steps: The step at which the run ends, not how many are left.
      start_step: Steps done before this start of the run.
      console: Where to show it, as a bar if it is a terminal.
      clock: Seconds, from any starting point.
    """
    self._total_steps = total_steps
    self._console = console
    self._clock = clock
    self._first = (start_step, clock())
    self._reports = 0
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("step {task.completed}/{task.total}"),
      rich.progress.BarColumn(),
      rich.progress.TextColumn("{task.description}"),
      rich.progress.TimeElapsedColumn(),
      console=console,
      get_time=clock,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task(
      "compiling", total=total_steps, completed=start_step
    )

  def __enter__(self) -> "Progress":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()

  def report(self, step: int, metrics: Mapping[str, Any]) -> None:
    """Shows a step and, of its metrics, those that a person follows.

    Args:
      step: Steps done.
      metrics: `loss`, `accuracy`, `eval/loss`, `eval/bleu`, `mfu` and
        `tokens_per_second` are shown if present; all others are ignored.
    """
    parts = [
      f"{name.replace('/', ' ')} {float(metrics[name]):.{digits}f}"
      for name, digits in _SHOWN.items()
      if name in metrics
    ]
    if "tokens_per_second" in metrics:
      parts.append(f"{_count(float(metrics['tokens_per_second']))} tokens/s")
    parts.append(f"ETA {self._time_left(step)}")
    text = "  ".join(parts)
    if self._console.is_terminal:
      self._bar.update(self._task, completed=step, description=text)
    else:
      self._console.print(
        f"step {step}/{self._total_steps}  {text}",
        highlight=False,
        markup=False,
        soft_wrap=True,
      )

  def _time_left(self, step: int) -> str:
    now = self._clock()
    first_step, first_time = self._first
    self._reports += 1
    if self._reports == 1:
      self._first = (step, now)
    if step <= first_step:
      return "?"
    seconds_per_step = (now - first_time) / (step - first_step)
    return _duration((self._total_steps - step) * seconds_per_step)


def _count(number: float) -> str:
  """Three digits are enough for a speed: 950, 12.3k, 1.25M."""
  for size, unit in ((1e6, "M"), (1e3, "k")):
    if number >= size:
      return f"{number / size:.3g}{unit}"
  return f"{number:.3g}"


def _duration(seconds: float) -> str:
  """Minutes and seconds, preceded by hours if it is at least one."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"


class ReportEvery(Hook):
  """Asks for a report every `log_every` steps, and at the last."""

  place = Place.REQUEST

  def __init__(self, log_every: int):
    self._log_every = log_every

  def after_step(self, moment: Moment) -> None:
    at_last = moment.done == moment.last_step
    if at_last or moment.done % self._log_every == 0:
      moment.report_due = True


class StepReports(Hook):
  """What the steps measured, summed up by `train.metrics.metric_sums`."""

  place = Place.COUNT

  def __init__(self, run: Run):
    self._sums = MetricSums(run.model, run.task_space)

  def after_step(self, moment: Moment) -> None:
    self._sums.add(moment.metrics)
    if moment.report_due:
      report = self._sums.report()
      moment.tokens = report.pop("tokens")
      moment.report |= report


class DataReports(Hook):
  """Counts from the position of the data, since the beginning of the run."""

  place = Place.COUNT

  def after_step(self, moment: Moment) -> None:
    if moment.report_due:
      pairs = moment.position["pairs"].values()
      moment.report["data/examples"] = examples_read(moment.position)
      moment.report["data/skipped_too_long"] = sum(
        pair["skipped_too_long"] for pair in pairs
      )


class Histograms(Hook):
  """Reports histograms of each parameter and of its gradients.

  Every `every_steps` steps; those of the gradients are counted in the step.
  """

  place = Place.MEASURE

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
  """Writes every report to the run directory; see `metrics.metric_writer`."""

  place = Place.REPORT

  def __init__(
    self, run_dir: epath.PathLike, first_step: int, sinks: Sequence[Sink]
  ):
    self._writer = MetricWriter(run_dir, resume_step=first_step, sinks=sinks)
    self._last = first_step

  def after_step(self, moment: Moment) -> None:
    if moment.done <= self._last:
      # The run was rolled back: what was logged of these steps is removed too.
      self._writer.go_back(moment.done - 1)
    self._last = moment.done
    if moment.report:
      self._writer.write(moment.done, moment.report)

  def close(self) -> None:
    self._writer.close()


class ShowReports(Hook):
  """Shows how far the run is; see `Progress`."""

  place = Place.REPORT

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
  """Prints sizes, mesh, run directory, and how tokens reach experts."""
  say(
    f"{program.num_parameters / 1e6:.1f}M parameters,"
    f" {len(run.task_space.pairs)} pairs, {len(run.task_space.tasks)} tasks,"
    f" mesh {dict(program.partitioning.mesh.shape)}, run directory {run_dir}"
  )
  for stack, choice in program.dispatch_choices(batch_size).items():
    say(f"{stack} experts by {choice}")

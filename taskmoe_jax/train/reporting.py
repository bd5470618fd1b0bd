"""The hooks that make a report, and those that hand it out."""

import time

import rich.console
from etils import epath

from taskmoe_jax.train.hooks import Hook, Moment
from taskmoe_jax.train.metric_writer import MetricWriter
from taskmoe_jax.train.metrics import MetricSums
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


class Speed(Hook):
  """Target tokens a second since the last report.

  Attributes:
    tokens_per_second: Over all reports but the first, which holds compilation
      and says nothing of speed.
  """

  def __init__(self):
    self._since = time.perf_counter()
    self._reports = 0
    self._tokens = self._seconds = 0.0

  def after_step(self, moment: Moment) -> None:
    if not moment.report_due:
      return
    now = time.perf_counter()
    seconds, self._since = now - self._since, now
    tokens = moment.report.pop("tokens")
    moment.report["tokens_per_second"] = tokens / seconds
    if self._reports:
      self._tokens += tokens
      self._seconds += seconds
    self._reports += 1

  @property
  def tokens_per_second(self) -> float:
    return self._tokens / self._seconds if self._seconds else 0.0


class WriteReports(Hook):
  """Writes every report to the run directory; see `train.metric_writer`."""

  def __init__(self, run_dir: epath.PathLike, first_step: int):
    self._writer = MetricWriter(run_dir, resume_step=first_step)

  def after_step(self, moment: Moment) -> None:
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

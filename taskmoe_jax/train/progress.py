"""How far a run is: a bar on a terminal, plain lines in a log."""

import time
from collections.abc import Callable, Mapping

import rich.console
import rich.progress
from jaxtyping import ArrayLike

# Metrics that a person follows, and how many digits of them.
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

  The time left is judged by the steps since the first report, because the
  steps before it include compilation.
  """

  def __init__(
    self,
    total_steps: int,
    start_step: int,
    console: rich.console.Console,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Prepares a bar from `start_step`, where a resumed run goes on.

    Args:
      total_steps: The step at which the run ends, not how many are left.
      start_step: Steps done before this start of the run.
      console: Where to show it; whether it is a terminal is asked of it.
      clock: Seconds, from any beginning.
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

  def report(self, step: int, metrics: Mapping[str, ArrayLike]) -> None:
    """Shows a step and, of its metrics, those that a person follows.

    Args:
      step: Steps done.
      metrics: `loss`, `accuracy`, `eval/loss`, `eval/bleu`, `mfu` and
        `tokens_per_second` are shown if they are there, others are not.
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
  """Minutes and seconds, with hours before them if there are any."""
  minutes, seconds = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f"{hours}:{minutes:02}:{seconds:02}"
  return f"{minutes}:{seconds:02}"

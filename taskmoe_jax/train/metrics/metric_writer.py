"""Writes the metrics of a run to `metrics.jsonl` and to other sinks.

A line of `metrics.jsonl` is one report of one step:

  {"step": 200, "time": 1763868000.25, "loss": 3.21, "loss/pair/de-en": 3.4,
   "load/decoder": [0.1, 0.4, 0.5]}

`time` is in seconds since 1970. JSON cannot represent a number that is not
finite, so such a number is the string "nan", "inf" or "-inf", which Python's
`float()` and most readers of tables convert back; `null` would not say which.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import ArrayLike

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.train.step.gradient_statistics import Histogram

Value = np.ndarray | Histogram


class Sink:
  """Another place to write metrics to, such as TensorBoard."""

  def write(
    self, step: int, values: Mapping[str, Value], *, now: float
  ) -> None:
    """Writes the report of a step; `now` is in seconds since 1970."""

  def close(self) -> None:
    """Called once, after the last report."""


class MetricWriter:
  """Writes what a training loop reports, as if the run had never stopped.

  A killed run resumes from its last checkpoint, and so reports the steps after
  it a second time. Their first reports are removed when the writer is opened:
  their lines are deleted from `metrics.jsonl`, and other sinks do it their way.

  Scalars and arrays go to `metrics.jsonl`, an array of float32 with as many
  digits as that has. A matrix, such as the overlap of every two tasks, and a
  `Histogram` go to the other sinks alone: lines of them would be long, and
  unread.
  """

  def __init__(
    self,
    folder: str | os.PathLike,
    *,
    resume_step: int = 0,
    sinks: Sequence[Sink] = (),
    clock: Callable[[], float] = time.time,
  ):
    """Opens the file of a run, or creates it.

    Args:
      folder: The run's folder; any path that `epath` understands.
      resume_step: The step of the checkpoint that the run starts from. What
        was reported for later steps is removed.
      sinks: Where else to write to; they are closed with the writer.
      clock: Seconds since 1970.

    Raises:
      TaskMoeError: A line of `metrics.jsonl` was not written by this class.
    """
    path = epath.Path(folder) / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
      _remove_after(path, resume_step)
    self._clock = clock
    self._path = path
    self._lines = path.open("a", encoding="utf-8")
    self._sinks = sinks

  def write(
    self, step: int, metrics: Mapping[str, ArrayLike | Histogram]
  ) -> None:
    """Writes one line, which is on disk when this returns.

    Args:
      step: Training steps done; several reports of one step are several lines.
      metrics: Values by name; parts of a name are joined with slashes.
    """
    assert not metrics.keys() & {"step", "time"}, sorted(metrics)
    now = self._clock()
    values = {
      name: value if isinstance(value, Histogram) else np.asarray(value)
      for name, value in metrics.items()
    }
    line = {"step": int(step), "time": now} | {
      name: _json_value(value)
      for name, value in values.items()
      if not isinstance(value, Histogram) and value.ndim < 2
    }
    text = json.dumps(line, ensure_ascii=False, allow_nan=False)
    self._lines.write(f"{text}\n")
    self._lines.flush()
    for sink in self._sinks:
      sink.write(step, values, now=now)

  def go_back(self, step: int) -> None:
    """Removes, from `metrics.jsonl`, the reports of later steps."""
    self._lines.close()
    _remove_after(self._path, step)
    self._lines = self._path.open("a", encoding="utf-8")

  def close(self) -> None:
    with contextlib.ExitStack() as stack:
      for sink in self._sinks:
        stack.callback(sink.close)
      self._lines.close()

  def __enter__(self) -> "MetricWriter":
    return self

  def __exit__(self, *_) -> None:
    self.close()


def _json_value(value: np.ndarray | np.generic) -> Any:
  """A number, or a list of them, with strings for those JSON does not have."""
  if isinstance(value, np.ndarray) and value.ndim:
    return [_json_value(element) for element in value]
  # The shortest text that reads back as this float32.
  number = float(str(value)) if value.dtype == np.float32 else value.item()
  if isinstance(number, float) and not math.isfinite(number):
    return str(number)
  return number


def _remove_after(path: epath.Path, last_step: int) -> None:
  """Rewrites a file of metrics without the steps after `last_step`."""
  lines = path.read_text(encoding="utf-8").split("\n")
  kept = "".join(f"{line}\n" for line in _kept(lines, last_step, path))
  write_whole(path, kept.encode())


def _kept(lines: list[str], last_step: int, path: epath.Path) -> Iterable[str]:
  for number, line in enumerate(lines, start=1):
    try:
      step = json.loads(line)["step"]
    except (ValueError, TypeError, KeyError):
      # After the last line break comes nothing, or the beginning of a line that
      # was being written when the run was killed.
      if number == len(lines):
        return
      raise TaskMoeError(
        f"{path}:{number} is not a line of metrics with a step: {line[:40]!r}."
        " Correct that line or move the file away."
      ) from None
    if step <= last_step:
      yield line

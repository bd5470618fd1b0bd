"""What `metrics.jsonl` says of a training, up to a step."""

import collections
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import Float

from taskmoe_jax.errors import TaskMoeError

# Reports of which a task's load is the mean: one alone may be of few rows.
RECENT = 5

_LOSSES = {"loss": "training", "eval/loss": "validation"}
_LOAD = re.compile(r"routing/(\w+/layer_\d+)/load")
_TASK_LOAD = re.compile(r"routing/(\w+/layer_\d+)/task/(.+)/load")


@dataclasses.dataclass(frozen=True)
class History:
  """The course of a training.

  Attributes:
    losses: Steps and losses, in nats a target token, by what they are of.
    loads: Steps, and the share of choices that fell on each expert then, by
      MoE layer, such as `decoder/layer_1`.
    task_loads: The same of each task, by MoE layer and task: the mean of the
      last `RECENT` reports in which the task was seen.
  """

  losses: Mapping[str, list[tuple[int, float]]]
  loads: Mapping[str, tuple[list[int], Float[np.ndarray, "steps E"]]]
  task_loads: Mapping[str, Mapping[str, Float[np.ndarray, "E"]]]


def read_history(run_dir: epath.PathLike, *, until: int) -> History:
  """Reads what was reported of the steps up to one; nothing if there is no log.

  Line by line, since the log of a long training is larger than what is kept.

  Raises:
    TaskMoeError: A line, other than one that is still being written, is no
      report.
  """
  losses: dict[str, list] = {}
  loads: dict[str, tuple[list, list]] = {}
  recent: dict[str, dict[str, collections.deque]] = {}
  for report in _reports(epath.Path(run_dir) / "metrics.jsonl"):
    step = report["step"]
    if step > until:
      continue
    for key, name in _LOSSES.items():
      if key in report:
        losses.setdefault(name, []).append((step, float(report[key])))
    for key, value in report.items():
      if found := _LOAD.fullmatch(key):
        steps, rows = loads.setdefault(found[1], ([], []))
        steps.append(step)
        rows.append(_array(value))
      elif found := _TASK_LOAD.fullmatch(key):
        tasks = recent.setdefault(found[1], {})
        last = tasks.setdefault(found[2], collections.deque(maxlen=RECENT))
        last.append(_array(value))
  return History(
    losses,
    {name: (steps, np.stack(rows)) for name, (steps, rows) in loads.items()},
    {
      name: {task: np.mean(last, axis=0) for task, last in tasks.items()}
      for name, tasks in recent.items()
    },
  )


def _array(value: list) -> Float[np.ndarray, "E"]:
  """What is not finite is written as a word."""
  return np.asarray([float(number) for number in value], np.float64)


def _reports(path: epath.Path) -> Iterator[dict[str, Any]]:
  if not path.exists():
    return
  with path.open("r") as lines:
    for number, line in enumerate(lines, 1):
      try:
        report = json.loads(line)
        report["step"] + 0
      except (ValueError, TypeError, KeyError):
        if not line.endswith("\n"):
          return
        raise TaskMoeError(
          f"{str(path)!r}, line {number}, is no report of a step. Take the"
          " line out, or the file from a copy."
        ) from None
      yield report

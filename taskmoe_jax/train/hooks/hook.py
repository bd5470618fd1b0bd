"""What happens between two steps: reports, checkpoints and the like are hooks.

The loop does steps and nothing else. After each it makes a `Moment` and hands
it to every hook in turn; what one hook puts there, those behind it find. So the
order of the list in `loop.train` is what decides, for example, that a line of
metrics is on disk before the checkpoint that follows it.

On several hosts every process has the same hooks, and all must act alike at the
same step where they compute on devices or save: what only one of them knows
(a clock, a signal) has to be agreed upon first.
"""

import collections
import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.train.step.step import StepMetrics


class TimeSpent:
  """Seconds of this start of the run, by what they went to.

  The loop measures `input` (waiting for a batch), `compilation` (the call of
  the first step, which compiles it) and every hook by its `name`.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._begin = clock()
    self.seconds: dict[str, float] = collections.Counter()

  @contextlib.contextmanager
  def on(self, name: str) -> Iterator[None]:
    begin = self._clock()
    try:
      yield
    finally:
      self.seconds[name] += self._clock() - begin

  @property
  def total(self) -> float:
    return self._clock() - self._begin


@dataclasses.dataclass
class Moment:
  """The run after `done` steps; hooks may change what they find here.

  Attributes:
    done: Steps done in all; "step s" means that s updates are done.
    last_step: After which the run ends.
    state: After those steps. A hook that puts another in its place uses
      `go_back_to`.
    position: Of the data, from where the next step's batch is read.
    metrics: Of the step just done; on the devices still, so that looking at
      them waits for the step.
    spent: Where the time has gone.
    report_due: Whether the steps since the last report are to be reported now.
    save_due: Whether to save now, whatever the checkpoints' policy says.
    report: What will be logged of this step, by name; hooks add to it.
    stop: Why the run must end here, if it must.
    went_back: Whether the data must be read from `position` anew.
  """

  done: int
  last_step: int
  state: TrainState
  position: Mapping[str, Any]
  metrics: StepMetrics
  spent: TimeSpent
  report_due: bool = False
  save_due: bool = False
  report: dict[str, Any] = dataclasses.field(default_factory=dict)
  stop: str | None = None
  went_back: bool = False

  def go_back_to(self, state: TrainState, position: Mapping[str, Any]) -> None:
    """Goes on from another state, and from another position of the data."""
    self.state, self.position = state, position
    self.done = int(state.step)
    self.went_back = True


class Hook:
  """Something done between steps; either method may be left out.

  Attributes:
    name: Under which its time is kept, see `TimeSpent`.
  """

  name = "other"

  def after_step(self, moment: Moment) -> None:
    """Called after every step, in the order of the hooks."""

  def close(self) -> None:
    """Called once when the run ends or fails, in the opposite order."""

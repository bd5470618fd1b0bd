"""What happens between two steps: reports, checkpoints and the like are hooks.

The loop does steps and nothing else. After each it makes a `Moment` and hands
it to every hook in turn; what one hook puts there, later hooks find. Every hook
names its `Place`, and places are what decides, for example, that a line of
metrics is on disk before the checkpoint that follows it.

A hook from outside the package needs nothing but this module: derive from
`Hook`, choose a place, and bind it in a recipe (docs/training.md, "Your own
hooks"):

  loop.train.hooks = [@my_module.MyHook()]

On several hosts every process has the same hooks, and all must act alike at the
same step where they compute on devices or save: what only one of them knows
(a clock, a signal) has to be agreed upon first.
"""

import collections
import contextlib
import dataclasses
import enum
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.train.step.step import StepMetrics


class Place(enum.IntEnum):
  """When a hook is called after a step: places from first to last.

  Hooks of one place are called in the order of the list they are in; those that
  a recipe adds come after the package's own.
  """

  # Decides what this step asks for: a report, a checkpoint, the end of the run.
  # First, since all others act on it.
  REQUEST = 1
  # Collects what steps and data have counted, and begins the report with it.
  COUNT = 2
  # Adds to the report what follows from counts, clocks and the state. Before
  # EVALUATE, so that no evaluation counts among the steps that are measured.
  MEASURE = 3
  # Adds to the report what takes a computation of its own with the parameters.
  EVALUATE = 4
  # Hands the finished report out. Before JUDGE, so that the steps that a run
  # fails at are on disk; before SAVE, so that a checkpoint has the lines of all
  # its steps.
  REPORT = 5
  # Ends the run, or takes it back to an earlier state. Before SAVE, so that no
  # state that has diverged is saved.
  JUDGE = 6
  # Writes the state, once nothing changes it any more.
  SAVE = 7
  # Watches for the next step. Last, since every other may take long.
  WATCH = 8


class TimeUse(enum.StrEnum):
  """What the time of a run goes to; `time/...` in reports, see `Goodput`."""

  RESTORING = "restoring"
  COMPILATION = "compilation"
  INPUT = "input"
  CHECKPOINTS = "checkpoints"
  EVALUATION = "evaluation"
  PROFILING = "profiling"
  # Steps, and hooks that do none of these: not reported as lost.
  STEPS = "steps"
  OTHER = "other"


class TimeSpent:
  """Seconds of this start of the run, by what they went to.

  The loop measures `input` (waiting for a batch), `compilation` (the call of
  the first step, which compiles it) and every hook by its `time_use`.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._begin = clock()
    self.seconds: dict[TimeUse, float] = collections.defaultdict(float)

  @contextlib.contextmanager
  def on(self, use: TimeUse) -> Iterator[None]:
    begin = self._clock()
    try:
      yield
    finally:
      self.seconds[use] += self._clock() - begin

  @property
  def total(self) -> float:
    return self._clock() - self._begin


@dataclasses.dataclass
class Moment:
  """The run after `done` steps; hooks may change what they find here.

  Attributes:
    done: Steps done in all; "step s" means that s updates are done.
    last_step: The step after which the run ends.
    state: The state after those steps. A hook that replaces it calls
      `go_back_to`.
    position: The position of the data, from which the next step's batch is
      read.
    metrics: What the step just done measured; still on the devices, so that
      looking at them waits for the step.
    spent: Where the time has gone.
    report_due: Whether the steps since the last report are to be reported now.
    save_due: Whether to save now, whatever the checkpoints' policy says.
    report: What will be logged of this step, by name; hooks add to it.
    tokens: Target tokens of the steps since the last report; known in a report
      from `Place.MEASURE` on.
    stop: Why the run must end here, if it must.
    went_back: Whether the data must be read again from `position`.
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
  tokens: float = 0.0
  stop: str | None = None
  went_back: bool = False

  def go_back_to(self, state: TrainState, position: Mapping[str, Any]) -> None:
    """Continues from another state, and from another position of the data."""
    self.state, self.position = state, position
    self.done = int(state.step)
    self.went_back = True


class Hook:
  """Something done between steps; either method may be left out.

  Attributes:
    place: When it is called; every class says it.
    time_use: What its time counts as.
  """

  place: Place
  time_use: TimeUse = TimeUse.OTHER

  def after_step(self, moment: Moment) -> None:
    """Called after every step, in the order of places."""

  def close(self) -> None:
    """Called once when the run ends or fails, in the opposite order."""


def examples_read(position: Mapping[str, Any]) -> int:
  """Sentence pairs that the run has read up to a position of the data."""
  return sum(pair["examples"] for pair in position["pairs"].values())


def in_order(hooks: Sequence[Hook]) -> list[Hook]:
  """Sorts hooks by their places; those of one place stay as they are."""
  return sorted(hooks, key=lambda hook: hook.place)


def check_hooks(hooks: object) -> None:
  """Refuses what a recipe binds to `loop.train.hooks` and is not a hook.

  Raises:
    TaskMoeError: It is not a sequence of hooks, each with a place.
  """
  if not isinstance(hooks, list | tuple):
    raise TaskMoeError(
      f"hooks={hooks!r} is not a list. Set loop.train.hooks to a list such as"
      " [@my_module.MyHook()]."
    )
  for hook in hooks:
    if not isinstance(hook, Hook):
      raise TaskMoeError(
        f"{hook!r} in loop.train.hooks is not a Hook. Derive its class from"
        " taskmoe_jax.train.hooks.hook.Hook, and bind an object of it:"
        " [@my_module.MyHook()]."
      )
    if not isinstance(getattr(hook, "place", None), Place):
      name = type(hook).__name__
      raise TaskMoeError(
        f"the hook {name} in loop.train.hooks has no place in the order. Set"
        f" {name}.place to one of"
        f" {', '.join(f'Place.{place.name}' for place in Place)}."
      )

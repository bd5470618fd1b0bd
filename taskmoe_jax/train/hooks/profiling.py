"""Traces of chosen steps, to see what devices and hosts do in them."""

import dataclasses
from collections.abc import Callable

import jax
from etils import epath

from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.train.hooks.hook import Hook, Moment, Place, TimeUse


@dataclasses.dataclass(frozen=True, kw_only=True)
class TracedSteps:
  """Which steps to trace.

  Attributes:
    first_step: The first step traced, counted from 1; None for no trace. Choose
      one after the first step of a start, which compiles.
    num_steps: Number of steps. A trace of more than a few is unwieldy.
  """

  first_step: int | None
  num_steps: int

  def __post_init__(self):
    check_at_least(1, "TracedSteps", num_steps=self.num_steps)
    if self.first_step is not None and self.first_step < 1:
      raise TaskMoeError(
        f"first_step={self.first_step} is not at least 1. Set TRACE_FIRST_STEP,"
        " or leave it None for no trace."
      )


class Trace(Hook):
  """Has `jax.profiler` trace the chosen steps into `RUN_DIR/profile`.

  Every host writes the traces of its devices. Before it ends, the trace waits
  for the last step, so that it is complete. A run that ends before the last
  traced step writes what it has.
  """

  place = Place.MEASURE
  time_use = TimeUse.PROFILING

  def __init__(
    self,
    run_dir: epath.PathLike,
    steps: TracedSteps,
    *,
    done: int,
    say: Callable[[str], None],
  ):
    """Begins if the next step is the first to trace.

    Args:
      run_dir: The run directory.
      steps: Which steps to trace.
      done: Steps done before.
      say: Prints a line.
    """
    self._folder = epath.Path(run_dir) / "profile"
    self._before = (steps.first_step or 0) - 1
    self._last = self._before + steps.num_steps
    self._say = say
    self._active = False
    self._begin(done)

  def _begin(self, done: int) -> None:
    if done == self._before:
      jax.profiler.start_trace(str(self._folder))
      self._active = True

  def after_step(self, moment: Moment) -> None:
    if self._active and moment.done >= self._last:
      jax.block_until_ready(moment.metrics.tokens)
      self._end(moment.done)
    elif not self._active:
      self._begin(moment.done)

  def _end(self, done: int) -> None:
    self._active = False
    jax.profiler.stop_trace()
    self._say(
      f"traced steps {self._before + 1} to {done}: look at it by `tensorboard"
      f" --logdir {self._folder}` (pip install xprof)"
    )

  def close(self) -> None:
    if self._active:
      self._active = False
      jax.profiler.stop_trace()

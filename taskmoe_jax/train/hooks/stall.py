"""Ends a run that is alive but hangs."""

import faulthandler
import os
import sys
import threading
from collections.abc import Callable

from taskmoe_jax.hosts.liveness import LOST
from taskmoe_jax.train.hooks.hook import Hook, Moment, Place


class Stall(Hook):
  """A thread that ends this process if no step follows for too long.

  A collective that a broken link never completes, a bucket that never answers:
  all processes are alive, so that none is missed (see `hosts.liveness`), and
  the job still costs money. This prints the stack of every thread, and ends the
  process at once; a launcher starts it again. It counts from the first step,
  after all has been compiled.
  """

  place = Place.WATCH

  def __init__(
    self,
    minutes: float | int | None,
    end: Callable[[str], None] | None = None,
  ):
    """Prepares the hook.

    Args:
      minutes: Time without a step after which the process ends; None for never.
      end: Called with the reason instead of ending the process.
    """
    self._minutes = minutes
    self._end = end or _end_process
    self._progress = threading.Event()
    self._closed = threading.Event()
    self._done = 0
    self._thread = threading.Thread(
      target=self._watch, args=(minutes,), name="stall", daemon=True
    )

  def after_step(self, moment: Moment) -> None:
    self._done = moment.done
    self._progress.set()
    if self._minutes is not None and not self._thread.is_alive():
      self._thread.start()

  def close(self) -> None:
    self._closed.set()
    self._progress.set()
    if self._thread.is_alive():
      self._thread.join()

  def _watch(self, minutes: float | int) -> None:
    while self._progress.wait(60 * minutes):
      if self._closed.is_set():
        return
      self._progress.clear()
    self._end(
      f"nothing has followed step {self._done} for {minutes:g}"
      " minutes (DivergencePolicy.stall_minutes)"
    )


def _end_process(reason: str) -> None:
  faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
  print(
    f"taskmoe: error: {reason}; above are the stacks of all threads. Start"
    " the run again: it resumes from its last checkpoint. If an evaluation or a"
    " checkpoint takes longer than this, set STALL_MINUTES higher.",
    file=sys.stderr,
    flush=True,
  )
  os._exit(LOST)

"""Ends a run that lives but does not go on."""

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
  the processes are there, so that nobody is missed (see `host_watch`), and the
  job costs its price. This says where every thread stands, and ends the process
  at once; a launcher starts it again. It counts from the first step, which has
  compiled what there is to compile.
  """

  place = Place.WATCH

  def __init__(
    self,
    minutes: float | int | None,
    end: Callable[[str], None] | None = None,
  ):
    """Prepares the hook; the last of all, since every other may take long.

    Args:
      minutes: Without a step, after which the process ends; None for never.
      end: Called with the reason instead of ending the process.
    """
    self._seconds = None if minutes is None else 60 * minutes
    self._end = end or _end_process
    self._went_on = threading.Event()
    self._closed = threading.Event()
    self._done = 0
    self._thread = threading.Thread(
      target=self._watch, name="stall", daemon=True
    )

  def after_step(self, moment: Moment) -> None:
    self._done = moment.done
    self._went_on.set()
    if self._seconds is not None and not self._thread.is_alive():
      self._thread.start()

  def close(self) -> None:
    self._closed.set()
    self._went_on.set()
    if self._thread.is_alive():
      self._thread.join()

  def _watch(self) -> None:
    while self._went_on.wait(self._seconds):
      if self._closed.is_set():
        return
      self._went_on.clear()
    self._end(
      f"nothing has followed step {self._done} for {self._seconds / 60:g}"
      " minutes (DivergencePolicy.stall_minutes)"
    )


def _end_process(reason: str) -> None:
  faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
  print(
    f"taskmoe: error: {reason}; above is where each thread stands. Start the"
    " run again: it goes on from its last checkpoint. Where an evaluation or a"
    " checkpoint takes longer than this, set STALL_MINUTES higher.",
    file=sys.stderr,
    flush=True,
  )
  os._exit(LOST)

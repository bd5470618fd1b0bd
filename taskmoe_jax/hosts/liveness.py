"""Detects that another process of the job has ended or stopped responding."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax

# The exit status of a process that stops because another one did, or hangs.
LOST = 76

_BEATS = "taskmoe/beats/"
_STOPPED = "taskmoe/stopped/"
_REASON = f"{_STOPPED}reason"


class HostWatch(threading.Thread):
  """A thread that ends this process soon after another one has ended.

  Process 0 monitors all others, and they monitor it, through the key-value
  store of `jax.distributed`, which is in process 0: if that one dies, the store
  no longer answers. A process that stops says why, if it still can.

  It ends the process at once (`os._exit`), since the main thread may be in a
  collective that will never complete; a checkpoint that is being written stays
  unfinished, as after a kill.
  """

  def __init__(
    self,
    client: Any,
    name: str,
    *,
    silence_seconds: float,
    process_id: int | None = None,
    num_processes: int | None = None,
    end: Callable[[str], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    """Prepares the thread.

    Args:
      client: The client of the key-value store.
      name: This process, in messages.
      silence_seconds: Time without a beat after which a process counts as lost.
      process_id: The id of this process; JAX's unless given.
      num_processes: The number of processes; JAX's unless given.
      end: Called with the reason instead of ending the process.
      clock: Seconds, from any starting point.
    """
    super().__init__(name="host watch", daemon=True)
    self._client = client
    self._process = name
    self._silence = silence_seconds
    self._interval = silence_seconds / 12
    self._id = jax.process_index() if process_id is None else process_id
    self._num = jax.process_count() if num_processes is None else num_processes
    self._end = end or self._end_process
    self._clock = clock
    self._stopped = threading.Event()
    self._found = threading.Event()
    self._beat = 0
    # For each process, its last beat and when that was first seen.
    self._heard: dict[str, tuple[str, float]] = {}
    self._begin = clock()

  def stop(self) -> None:
    self._stopped.set()

  def tell(self, reason: str) -> None:
    """Tells the others why this process stops."""
    self.stop()
    try:
      self._client.key_value_set(_REASON, reason, allow_overwrite=False)
    except Exception:
      return  # Another was first, or the store is gone.
    if self._id == 0:
      # The store ends with this process: the others need time to read it.
      time.sleep(2 * self._interval)

  def wait_for_reason(self) -> None:
    """Waits until this thread has had time to find out what went wrong."""
    self._found.wait(2 * self._interval)

  def run(self) -> None:
    while not self._stopped.is_set():
      reason = self.look()
      if self._stopped.is_set():
        return
      if reason:
        self._found.set()
        self._end(reason)
        return
      self._stopped.wait(self._interval)

  def look(self) -> str | None:
    """Beats, and returns why the job must stop, if it must."""
    try:
      self._beat += 1
      self._client.key_value_set(
        f"{_BEATS}{self._id}",
        f"{self._beat} {self._process}",
        allow_overwrite=True,
      )
      found = dict(self._client.key_value_dir_get(_STOPPED))
      if found:
        return next(iter(found.values()))
      if self._id == 0:
        return self._silent(dict(self._client.key_value_dir_get(_BEATS)))
      return None
    except Exception as error:
      first_line = str(error).splitlines()[0]
      return f"process 0, which coordinates, is gone ({first_line})"

  def _silent(self, beats: dict[str, str]) -> str | None:
    now = self._clock()
    for process in range(1, self._num):
      key = f"{_BEATS}{process}"
      beat = beats.get(key, "")
      before, since = self._heard.get(key, ("", self._begin))
      if beat != before:
        self._heard[key] = beat, now
      elif now - since > self._silence:
        name = before.partition(" ")[2] or f"process {process}"
        reason = f"{name} has been silent for {now - since:.0f} s"
        # Another process may already have said why.
        with contextlib.suppress(Exception):
          self._client.key_value_set(_REASON, reason)
        time.sleep(2 * self._interval)
        return reason
    return None

  def _end_process(self, reason: str) -> None:
    print(
      f"taskmoe: error: {self._process} stops, since {reason}. Start the job"
      " again, on the same or another number of hosts: it resumes from its last"
      " checkpoint.",
      file=sys.stderr,
      flush=True,
    )
    os._exit(LOST)

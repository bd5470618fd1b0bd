"""One trainer per run directory: a lock that a killed trainer does not keep.

RUN_DIR/lock.json says who trains there, and is rewritten every few seconds:

  {"host": "vm-3", "pid": 4711, "start": "1763868000.25", "beat": 12}

Whether a process of the same host is alive can be checked. For one of another
host only the beat tells; it is watched for a while instead of being compared
with our clock, so that clocks need not agree. It is a plain file, so that it
works in a bucket as well. Two trainers that start at the same instant may both
believe that they hold it, so the holder checks that at every beat.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.hosts import processes
from taskmoe_jax.runs.directory import make_folder
from taskmoe_jax.train.hooks.hook import Hook, Moment, Place

BEAT_SECONDS = 10.0


class RunLock:
  """Holds a run directory for this process; a context manager."""

  def __init__(
    self,
    run_dir: epath.PathLike,
    *,
    say: Callable[[str], None] = lambda text: None,
    beat_seconds: float = BEAT_SECONDS,
  ):
    self._run_dir = str(run_dir)
    self._path = epath.Path(run_dir) / "lock.json"
    self._say = say
    self._beat_seconds = beat_seconds
    self._released = threading.Event()
    self.lost: TaskMoeError | None = None
    self._thread = threading.Thread(
      target=self._keep, name="run lock", daemon=True
    )
    self._content: dict[str, Any] = {
      "host": socket.gethostname(),
      "pid": os.getpid(),
      "start": _start_of(os.getpid()),
      "token": secrets.token_hex(8),
      "beat": 0,
    }

  def __enter__(self) -> "RunLock":
    """Takes the lock.

    Raises:
      TaskMoeError: Another trainer holds it, and is alive.
    """
    holder = self._read()
    if holder is not None:
      self._check_dead(holder)
    self._write()
    self._check_holder()
    self.check()
    self._thread.start()
    return self

  def __exit__(self, *_) -> None:
    self._released.set()
    self._thread.join()
    if self._is_ours(self._read()):
      self._path.unlink(missing_ok=True)

  def check(self) -> None:
    """Raises if another trainer has taken the run directory meanwhile."""
    if self.lost:
      raise self.lost

  def _check_holder(self) -> None:
    holder = self._read()
    if not self._is_ours(holder):
      self.lost = self._error(holder)

  def _check_dead(self, holder: dict[str, Any]) -> None:
    if holder.get("host") == self._content["host"]:
      if _start_of(holder.get("pid")) == holder.get("start"):
        raise self._error(holder)
    else:
      seconds = 3 * self._beat_seconds
      self._say(
        f"{self._path} belongs to {_name(holder)}; waiting {seconds:.0f} s to"
        " see whether it is alive"
      )
      time.sleep(seconds)
      if (now := self._read()) != holder:
        raise self._error(now or holder)
    self._say(
      f"{_name(holder)} trained here and was killed; this trainer takes over"
    )

  def _error(self, holder: dict[str, Any] | None) -> TaskMoeError:
    return TaskMoeError(
      f"{_name(holder or {})} is already training in {self._run_dir!r}. Stop"
      " it first, or set RUN_DIR to another folder."
    )

  def _keep(self) -> None:
    while not self._released.wait(self._beat_seconds):
      self._content["beat"] += 1
      try:
        self._check_holder()
        if self.lost:
          return
        self._write()
      except OSError:
        continue  # A full disk: saving will report it.

  def _is_ours(self, holder: dict[str, Any] | None) -> bool:
    return (holder or {}).get("token") == self._content["token"]

  def _read(self) -> dict[str, Any] | None:
    try:
      content = json.loads(self._path.read_text())
    except FileNotFoundError:
      return None
    except ValueError:
      return {}
    return content if isinstance(content, dict) else {}

  def _write(self) -> None:
    write_whole(self._path, json.dumps(self._content).encode())


@contextlib.contextmanager
def held(
  run_dir: epath.PathLike, console: rich.console.Console
) -> Iterator[RunLock | None]:
  """Makes the folder, and locks it for the job; process 0 holds the lock."""
  if not processes.is_first():
    yield None
    return
  make_folder(run_dir)

  def say(text):
    console.print(text, highlight=False, markup=False, soft_wrap=True)

  with RunLock(run_dir, say=say) as lock:
    yield lock


class HoldLock(Hook):
  """Ends a run whose directory another trainer has taken."""

  place = Place.JUDGE

  def __init__(self, lock: RunLock):
    self._lock = lock

  def after_step(self, moment: Moment) -> None:
    self._lock.check()


def _name(holder: dict[str, Any]) -> str:
  if not holder:
    return "another trainer"
  return f"process {holder.get('pid')} on host {holder.get('host')!r}"


def _start_of(pid: Any) -> str | None:
  """When a process of this host began; None if it does not exist.

  Process ids are reused, above all in containers.
  """
  try:
    with open("/proc/sys/kernel/random/boot_id") as file:
      boot = file.read().strip()
    with open(f"/proc/{pid}/stat") as file:
      # The name before these may contain spaces and brackets.
      fields = file.read().rpartition(")")[2].split()
  except OSError:
    return None if os.path.exists("/proc/self/stat") else _alive(pid)
  # A zombie no longer trains.
  return None if fields[0] in "ZX" else f"{boot} {fields[19]}"


def _alive(pid: Any) -> str | None:
  """Without /proc, as on macOS: whether such a process exists at all."""
  try:
    os.kill(int(pid), 0)
  except (OSError, TypeError, ValueError):
    return None
  return "running"

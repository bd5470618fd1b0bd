"""Several processes that train one model: how they meet, agree, and part.

Every process runs the same program; JAX joins their devices into one mesh.
Process 0 alone prints and writes what is not sharded. Whatever ends one
process ends all: the others would wait for it in the next collective for ever.
So each process tells the others that it is alive, and a process that fails or
stops responding makes all stop within a bounded time, with one line that names
it and its host. When the job is started again, on any number of hosts, it
resumes from the last checkpoint.
"""

import contextlib
import itertools
import json
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping

import jax
import rich.console
from jax._src import distributed

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.hosts.liveness import HostWatch

# Training a vocabulary, or reading a mixture, may take this long.
_PATIENCE_MS = 6 * 3600 * 1000
# What JAX says where there is no cluster, or where the program has already used
# its devices, as a Python program that calls us may have.
_ALONE = ("coordinator_address should be defined", "before any JAX calls")


def is_first() -> bool:
  """Whether this process prints and writes for all."""
  return jax.process_index() == 0


def here() -> str:
  """This process, in messages."""
  return f"process {jax.process_index()} on {socket.gethostname()}"


def console(given: rich.console.Console | None) -> rich.console.Console:
  """Where to print: process 0 to the given console, all others nowhere."""
  if is_first():
    return given or rich.console.Console()
  return rich.console.Console(quiet=True)


@contextlib.contextmanager
def connected(
  *,
  coordinator: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
  silence_seconds: float = 60.0,
) -> Iterator[None]:
  """Joins the processes of the job; must come before any use of a device.

  On TPU pods, GKE, Slurm and Open MPI, JAX finds the others; elsewhere the
  three arguments name them. A process outside a cluster stays alone.

  An error in this process ends the others as well, and this one without
  waiting for them.

  Args:
    coordinator: `host:port` of process 0, reachable from all hosts.
    num_processes: Number of processes of the job; 1 means that this process is
      alone, whatever cluster it is in.
    process_id: The id of this process, from 0.
    silence_seconds: Time after which a process that does not respond counts as
      lost.

  Raises:
    TaskMoeError: The arguments do not make sense together, or the others
      cannot be reached.
  """
  if not _initialize(coordinator, num_processes, process_id, silence_seconds):
    yield
    return
  if jax.process_count() == 1:
    yield
    return
  watch = HostWatch(_client(), here(), silence_seconds=silence_seconds)
  watch.start()
  try:
    yield
    wait_for_all("end")
  except BaseException as error:
    _part(watch, error)
  finally:
    watch.stop()


def _part(watch: HostWatch, error: BaseException) -> None:
  """Tells the user and the others why this process stops, and stops."""
  if isinstance(error, TaskMoeError):
    reason, status = str(error).splitlines()[0], 2
  else:
    # An error in a collective most often means that another process has ended,
    # whose reason says more.
    watch.wait_for_reason()
    traceback.print_exception(error)
    reason, status = f"{type(error).__name__}: {error}".splitlines()[0], 1
  print(f"taskmoe: error: {here()}: {reason}", file=sys.stderr, flush=True)
  watch.tell(f"{here()} stopped: {reason}")
  # A normal exit would wait for processes that will never come.
  os._exit(status)


def _initialize(
  coordinator: str | None,
  num_processes: int | None,
  process_id: int | None,
  silence_seconds: float,
) -> bool:
  """Connects to the others, if there are any."""
  given = (coordinator, num_processes, process_id)
  if num_processes == 1:
    return False
  if any(value is not None for value in given):
    if coordinator is None or num_processes is None or process_id is None:
      raise TaskMoeError(
        f"--coordinator={coordinator}, --num_processes={num_processes} and"
        f" --process_id={process_id} belong together. Set all three, or none"
        " where JAX finds them itself (TPU pods, GKE, Slurm)."
      )
    if not 0 <= process_id < num_processes:
      raise TaskMoeError(
        f"process_id={process_id} is outside 0..{num_processes - 1}, the"
        f" numbers of {num_processes} processes. Set --process_id."
      )
    if ":" not in coordinator:
      raise TaskMoeError(
        f"coordinator {coordinator!r} has no port. Set --coordinator to"
        " HOST:PORT of process 0."
      )
  # On a CPU, programs of several threads may overtake each other, and so would
  # their collectives; elsewhere this changes nothing.
  jax.config.update("jax_cpu_enable_async_dispatch", False)
  try:
    jax.distributed.initialize(
      *given,
      # `HostWatch` notices first, and its message is clearer.
      heartbeat_timeout_seconds=int(3 * silence_seconds),
      shutdown_timeout_seconds=int(3 * silence_seconds),
    )
  except Exception as error:
    if coordinator is None and any(text in str(error) for text in _ALONE):
      jax.config.update("jax_cpu_enable_async_dispatch", True)
      return False
    raise TaskMoeError(
      "the processes of this job cannot reach each other:"
      f" {str(error).splitlines()[0]}. Set --coordinator, --num_processes and"
      " --process_id, or --num_processes=1 for this process alone."
    ) from error
  return True


def _client():
  """JAX's key-value store and barriers, for which it has no public name.

  Orbax uses them in the same way. Unlike collectives they wait as long as we
  say, and then fail.
  """
  return distributed.global_state.client


_barriers = itertools.count()


def wait_for_all(name: str) -> None:
  """Returns when all processes have called it; the name is for messages."""
  if jax.process_count() > 1:
    # A name can be used once; all processes count alike.
    number = next(_barriers)
    _client().wait_at_barrier(f"taskmoe/{number}/{name}", _PATIENCE_MS)


def first_does(name: str, function: Callable[[], object]) -> None:
  """Process 0 calls a function while the others wait for it."""
  if is_first():
    function()
  wait_for_all(name)


def check_agreement(name: str, values: Mapping[str, str]) -> None:
  """Refuses to continue if a process has other values than process 0.

  Args:
    name: The name of this check; each needs a different one.
    values: What must be the same everywhere, such as the recipe; texts may be
      long, and the first lines that differ are shown.

  Raises:
    TaskMoeError: In the process that differs, which ends all.
  """
  if jax.process_count() == 1:
    return
  key = f"taskmoe/agreement/{name}"
  if is_first():
    _client().key_value_set(key, json.dumps(dict(values)))
  first = json.loads(_client().blocking_key_value_get(key, _PATIENCE_MS))
  for what, value in values.items():
    if value != first[what]:
      raise TaskMoeError(
        f"{what} of {here()} differs from that of process 0:"
        f" {first_difference(value, first[what])}. Start all processes with"
        " the same installation, files and flags."
      )
  wait_for_all(f"agreement/{name}")


def first_difference(here: str, there: str) -> str:
  """The first lines in which two texts differ, in words."""
  ours, theirs = here.splitlines(), there.splitlines()
  for number in range(max(len(ours), len(theirs))):
    pair = [
      lines[number].strip() if number < len(lines) else "nothing"
      for lines in (ours, theirs)
    ]
    if pair[0] != pair[1]:
      return f"{pair[0]!r}, not {pair[1]!r}"
  return "in its line breaks"

"""The memory of the host: how much is available; keeping freed blocks."""

import ctypes
import pathlib

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_M_ARENA_MAX = -8
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
  """Makes malloc keep large blocks that are freed, to reuse them.

  On a CPU, JAX allocates the arrays of every step anew. glibc gives large
  blocks back to the kernel as soon as they are freed, and the kernel hands out
  zeroed pages one by one when they are touched again: with the 64 MB of
  gradients of a 32-expert layer that took as long as its matrix products (32 ms
  a step; 4 ms with this). The price is that the process keeps its peak memory.
  Threads that have allocated memory before keep their own heaps, which shrink:
  call it before the first computation.

  Returns:
    Whether the C library has such a setting: glibc does.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  # Never a separate mapping for a block, and never a shorter heap; and one heap
  # for all threads, since those of other threads are always given back.
  return bool(
    mallopt(_M_MMAP_MAX, 0)
    and mallopt(_M_TRIM_THRESHOLD, _NEVER)
    and mallopt(_M_ARENA_MAX, 1)
  )


def available_memory(root: pathlib.Path = pathlib.Path("/")) -> int | None:
  """Bytes that this process can still allocate; None if unknown (not Linux).

  What the kernel reports as available, or the rest of the container's limit.

  Args:
    root: Where /proc and /sys are.
  """
  known = []
  try:
    lines = (root / "proc/meminfo").read_text().splitlines()
    sizes = dict(line.split(":", 1) for line in lines)
    known.append(int(sizes["MemAvailable"].split()[0]) * 1024)
  except (OSError, KeyError, ValueError):
    pass
  try:
    group = root / "sys/fs/cgroup"
    most = (group / "memory.max").read_text().strip()
    used = int((group / "memory.current").read_text())
    if most != "max":
      known.append(max(int(most) - used, 0))
  except (OSError, ValueError):
    pass
  return min(known, default=None)

"""What the C library does with the host's memory that a program has freed."""

import ctypes

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
  """Makes malloc keep large blocks that are freed, for the next that ask.

  On a CPU, JAX allocates the arrays of every step anew. glibc gives large
  blocks back to the kernel as soon as they are freed, and the kernel hands out
  zeroed pages one by one when they are touched again: with the 64 MB of
  gradients of a 32-expert layer that took as long as its matrix products (32 ms
  a step; 4 ms with this). The price is that the process keeps the most memory
  that it ever needed.

  Returns:
    Whether the C library has such a setting: glibc's has.
  """
  try:
    mallopt = ctypes.CDLL(None).mallopt
  except (AttributeError, OSError, TypeError):
    return False
  # Never a mapping of its own for a block, and never a shorter heap.
  return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))

"""Freed memory is kept: in a process of its own, since it is for good."""

import platform
import subprocess
import sys

_PROGRAM = """
import resource
import numpy as np
from taskmoe_jax.hosts.memory import keep_freed_memory

def faults():
  return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def pages(times):
  before = faults()
  for _ in range(times):
    np.ones(2 ** 24, np.uint8)
  return faults() - before

usual = pages(8)
kept = keep_freed_memory()
np.ones(2 ** 24, np.uint8)
print(kept, usual, pages(8))
"""


def test_blocks_are_used_again():
  """Sixteen megabytes eight times: 4096 pages each, or none once kept."""
  done = subprocess.run(
    [sys.executable, "-c", _PROGRAM], check=True, capture_output=True, text=True
  )
  kept, usual, after = done.stdout.split()
  assert (kept == "True") == (platform.libc_ver()[0] == "glibc")
  if kept == "True":
    assert int(after) < int(usual) / 8

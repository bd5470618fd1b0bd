"""Times programs side by side, and reads what a compiler says of one."""

import dataclasses
import math
import re
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

_COLLECTIVE = re.compile(
  r" = (?P<shapes>\(.*\)|\S+) "
  r"(?P<kind>all-to-all|all-gather|all-reduce|reduce-scatter|"
  r"collective-permute|ragged-all-to-all)(?P<start>-start)?\("
)
_SHAPE = re.compile(r"\b(pred|[a-z]+\d+)\[([\d,]*)\]")


@dataclasses.dataclass(frozen=True)
class Cost:
  """What a compiler says that one device does.

  Attributes:
    flops: Floating-point operations.
    bytes: Read and written in main memory.
    memory: Bytes of temporary arrays.
    seconds: Its estimate of the time, or None where it has none. It has none
      for a program with asynchronous collectives.
    communication: Bytes that each kind of collective delivers.
  """

  flops: float
  bytes: float
  memory: int
  seconds: float | None
  communication: Mapping[str, int]


def cost_of(compiled: jax.stages.Compiled) -> Cost:
  analysis = compiled.cost_analysis()
  seconds = analysis.get("optimal_seconds", -1.0)
  return Cost(
    flops=analysis["flops"],
    bytes=analysis["bytes accessed"],
    memory=compiled.memory_analysis().temp_size_in_bytes,
    seconds=seconds if seconds > 0 else None,
    communication=communication(compiled.as_text()),
  )


def communication(program: str) -> dict[str, int]:
  """Bytes that each kind of collective delivers to a device, by its HLO."""
  total: dict[str, int] = {}
  for match in _COLLECTIVE.finditer(program):
    sizes = [
      math.prod(map(int, filter(None, dims.split(",")))) * _width(dtype)
      for dtype, dims in _SHAPE.findall(match["shapes"])
    ]
    # One that starts and is awaited elsewhere lists operands, then results.
    if match["start"]:
      sizes = sizes[len(sizes) // 2 :]
    total[match["kind"]] = total.get(match["kind"], 0) + sum(sizes)
  return total


def _width(dtype: str) -> int:
  digits = re.search(r"\d+", dtype)
  return max(1, int(digits.group()) // 8) if digits else 1


def times_of(
  programs: Mapping[str, Callable[[], object]], repeats: int
) -> dict[str, np.ndarray]:
  """Seconds of each program's runs, taken in turn.

  In turn, so that what else the machine does falls on all alike: their ratios
  mean something even where the seconds do not.
  """
  for program in programs.values():
    jax.block_until_ready(program())
  seconds = {name: [] for name in programs}
  for _ in range(repeats):
    for name, program in programs.items():
      begin = time.perf_counter()
      jax.block_until_ready(program())
      seconds[name].append(time.perf_counter() - begin)
  return {name: np.array(found) for name, found in seconds.items()}

"""How long a step would take, as far as a compiler can tell.

The TPU compiler annotates each operation of its schedule with its cycles; times
the iterations of its loop, over the clock rate, that is the compute time. (The
compiler's own total, `optimal_seconds`, counts each loop as one iteration,
counts communication between chips as free, and is negative for programs with
asynchronous collectives: so it is not used.) Our own kernels have no cycles;
they are counted with their FLOPs or bytes at the chip's peak.

For collectives the compiler has no estimate. They take the minimum number of
bytes that a device sends, over the bandwidth of all links in those dimensions
of the torus that the group spans. In an all-to-all a byte is forwarded by a
quarter of each ring on its way. An asynchronous collective costs what the work
between its start and its end does not hide; any other costs all of it.

It is a kind of bound, not a measurement: no latency, no host, no waiting for
data.
"""

import dataclasses
import math

import numpy as np
from jax.sharding import Mesh

from taskmoe_jax.planning.arithmetic import kernel_cost
from taskmoe_jax.planning.collectives import (
  ASYNC_DONE,
  ASYNC_START,
  Traffic,
  replica_groups,
  sent_by,
)
from taskmoe_jax.planning.hlo import Instruction, Module
from taskmoe_jax.planning.topologies import (
  CHIPS,
  Topology,
  coordinates_of,
  slices_of,
)

# Memory bandwidth of one device in GB/s, as the compiler assumes (libtpu
# 0.0.42).
_MEMORY_GBPS = {
  "v2": 307,
  "v3": 429,
  "v4": 982,
  "v5e": 738,
  "v5p": 2350,
  "v6e": 1638,
  "tpu7x": 3686,
}
assert _MEMORY_GBPS.keys() == CHIPS.keys()


@dataclasses.dataclass(frozen=True)
class TimeEstimate:
  """Seconds of a step on one device.

  Attributes:
    compute: Time of the operations.
    kernels: The part of it in our own kernels, counted at the chip's peak,
      which they never reach.
    ici: Communication within slices, hidden or not.
    dcn: Communication between slices, hidden or not; None if the network's
      speed is not published.
    exposed: The part of both that is not hidden behind operations.
  """

  compute: float
  kernels: float
  ici: float
  dcn: float | None
  exposed: float

  @property
  def total(self) -> float | None:
    return None if self.dcn is None else self.compute + self.exposed


def estimate(
  module: Module, mesh: Mesh, topology: Topology
) -> TimeEstimate | None:
  """Estimates a step; None if the program has no estimates by the compiler.

  Args:
    module: The program, compiled for the topology.
    mesh: The mesh it was compiled for.
    topology: Its chips and networks.
  """
  if not any(line.cycles for line, _ in module.executed()):
    return None
  clock = _Clock(module, mesh, topology)
  clock.run(module.entry)
  dcn = None if math.isnan(clock.dcn) else clock.dcn
  return TimeEstimate(
    clock.compute, clock.kernels, clock.ici, dcn, clock.exposed
  )


class _Clock:
  """Walks through a schedule and sums the times."""

  def __init__(self, module: Module, mesh: Mesh, topology: Topology):
    self.compute = self.kernels = self.ici = self.dcn = self.exposed = 0.0
    self._module, self._mesh, self._topology = module, mesh, topology
    self._slices, self._places = slices_of(mesh), coordinates_of(mesh)

  def run(self, name: str, times: int = 1) -> None:
    started: dict[str, tuple[float, float]] = {}
    received: dict[str, str] = {}
    for line in self._module.computations[name]:
      called = line.called
      if line.opcode == "while":
        iterations = self._module.trip_count(line) or 1
        self.run(called["body"][0], times * iterations)
      elif line.opcode in ("call", "conditional"):
        for names in called.values():
          for inner in names:
            self.run(inner, times)
      elif _is_start(line) and (found := self._sent(line)):
        # What is sent between slices is awaited where it is received.
        begun = _rendezvous(line) or line.name.replace(ASYNC_START, ASYNC_DONE)
        started[begun] = (self.compute, self._travel(found, times))
      elif line.opcode == "recv" and (rendezvous := _rendezvous(line)):
        received[line.name] = rendezvous
      elif _is_done(line):
        operand = line.operands[0]
        if line.name.startswith(ASYNC_DONE):
          operand = line.name
        begun = received.get(operand, operand)
        since, seconds = started.pop(begun, (self.compute, 0.0))
        self.exposed += max(0.0, seconds - (self.compute - since))
      elif found := self._sent(line):
        self.exposed += self._travel(found, times)
      else:
        kernel = times * self._kernel_seconds(line)
        self.kernels += kernel
        cycles = times * (line.cycles or 0)
        self.compute += kernel + cycles / self._topology.hertz

  def _kernel_seconds(self, line: Instruction) -> float:
    cost = kernel_cost(line)
    if cost is None or line.cycles:
      return 0.0
    memory = 1e9 * _MEMORY_GBPS[self._topology.kind]
    return max(cost[0] / self._topology.peak_flops, cost[1] / memory)

  def _sent(self, line: Instruction) -> tuple[Instruction, Traffic] | None:
    return sent_by(self._module, line, self._mesh, self._slices)

  def _travel(self, found: tuple[Instruction, Traffic], times: int) -> float:
    line, traffic = found
    sides = []
    if traffic.ici_bytes:
      members = replica_groups(line, self._mesh.size)[0]
      places = self._places[list(members)]
      sides = [len(np.unique(column)) for column in places.T]
    dims = self._topology.chip.dims
    speed = self._topology.ici_bytes_per_second
    # Both devices of a chip may be the whole group.
    speed *= max(1, sum(side > 1 for side in sides)) / dims
    hops = 1.0
    if traffic.kind in ("all-to-all", "ragged-all-to-all"):
      hops = max(1.0, sum(side / 4 for side in sides if side > 1))
    ici = times * traffic.ici_bytes * hops / speed
    dcn = 0.0
    if traffic.dcn_bytes:
      between = self._topology.dcn_bytes_per_second
      dcn = times * traffic.dcn_bytes / between if between else math.nan
    self.ici += ici
    self.dcn += dcn
    return ici + dcn


def _is_start(line: Instruction) -> bool:
  return (
    line.opcode.endswith("-start")
    or line.opcode == "send"
    or line.name.startswith(ASYNC_START)
  )


def _is_done(line: Instruction) -> bool:
  if line.name.startswith(ASYNC_DONE):
    return True
  return line.opcode.endswith("-done") and line.opcode != "send-done"


def _rendezvous(line: Instruction) -> str | None:
  """What a `send` and the `recv` of its answer have in common."""
  return line.attribute(r'_xla_host_transfer_rendezvous="([^"]*)"')

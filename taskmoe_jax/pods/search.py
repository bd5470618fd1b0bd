"""Which mesh to train on: all that make sense, in the order of their promise.

To compile a step takes minutes, so what can be told beforehand is: how much a
device must hold before the first step, and the least that it has to send
(`pods.least`). Meshes that cannot hold the state are left out; the others come
by the time that sending takes, and only the first of them are compiled.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.pods.least import least_communication
from taskmoe_jax.pods.programs import Plan, bytes_of
from taskmoe_jax.pods.report import Report
from taskmoe_jax.pods.topologies import Topology

# Wider than this a matrix is cut into slices too thin for the chip.
_MAX_MODEL = 8
_MAX_MICROBATCHES = 16

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A mesh, and what is known of it before anything is compiled.

  Attributes:
    settings: Arguments of `train.loop.train`.
    plan: The recipe on it.
    held_bytes: Of the state, on one device.
    sending_s: Seconds to send the least there is to send.
  """

  settings: Settings
  plan: Plan
  held_bytes: int
  sending_s: float

  @property
  def label(self) -> str:
    sizes = self.plan.partitioning.mesh.shape
    mesh = " ".join(f"{name} {size}" for name, size in sizes.items())
    fsdp = ", fsdp" if self.plan.partitioning.fsdp else ""
    return f"{mesh}{fsdp}, microbatches {self.plan.num_microbatches}"


def candidates(
  settings: Settings,
  topology: Topology,
  build: Callable[[Settings, Partitioning], Plan],
) -> list[Candidate]:
  """Meshes whose state a device can hold, the most promising first."""
  found = []
  for mesh, fsdp in _meshes(settings["mesh"], topology):
    candidate = _candidate(
      {**settings, "mesh": mesh, "fsdp": fsdp}, topology, build
    )
    if candidate and candidate.held_bytes < topology.hbm_bytes:
      found.append(candidate)
  if not found:
    raise TaskMoeError(
      f"no mesh of {topology.num_devices} devices serves this recipe: none"
      f" divides its {settings['batches'].batch_size} rows and its widths, and"
      " holds its state. Set BATCH_SIZE, or --topology to a larger one."
    )
  return sorted(found, key=lambda found: (found.sending_s, found.held_bytes))


def _meshes(
  mesh: MeshShape, topology: Topology
) -> Iterator[tuple[MeshShape, bool]]:
  devices = topology.num_devices // topology.slices
  sizes = [size for size in range(1, devices + 1) if devices % size == 0]
  for expert, model in itertools.product(sizes, sizes):
    if model <= _MAX_MODEL and devices % (expert * model) == 0:
      data = devices // (expert * model)
      for fsdp in (False, True) if data > 1 else (False,):
        changed = {"data": data, "expert": expert, "model": model}
        yield dataclasses.replace(mesh, **changed), fsdp


def _candidate(
  settings: Settings,
  topology: Topology,
  build: Callable[[Settings, Partitioning], Plan],
) -> Candidate | None:
  """None if something does not divide."""
  try:
    mesh = make_mesh(settings["mesh"], topology.devices)
    plan = build(settings, Partitioning(mesh, settings["fsdp"]))
    sent = sum(least_communication(plan).values())
  except (TaskMoeError, NotImplementedError):
    return None
  held = bytes_of(plan.program.abstract_state())
  return Candidate(settings, plan, held, sent / topology.ici_bytes_per_second)


def search(
  settings: Settings,
  topology: Topology,
  *,
  limit: int,
  build: Callable[[Settings, Partitioning], Plan],
  compiled: Callable[[Candidate], Report],
) -> list[Report]:
  """Compiles the most promising meshes; the best that fits comes first.

  A mesh that does not fit is tried again with twice as many microbatches.

  Args:
    settings: Arguments of `train.loop.train`.
    topology: Where to train.
    limit: How many programs to compile at most.
    build: Makes a plan of settings on a mesh.
    compiled: Compiles a candidate and reports on it.
  """
  check_at_least(1, "--search", programs=limit)
  waiting = candidates(settings, topology, build)
  reports = []
  while waiting and len(reports) < limit:
    candidate = waiting.pop(0)
    report = compiled(candidate)
    reports.append(report)
    if not report.fits:
      smaller = _with_more_microbatches(candidate, topology, build)
      waiting = [smaller, *waiting] if smaller else waiting
  return sorted(
    reports,
    key=lambda report: (not report.fits, report.estimate_s or float("inf")),
  )


def _with_more_microbatches(
  candidate: Candidate,
  topology: Topology,
  build: Callable[[Settings, Partitioning], Plan],
) -> Candidate | None:
  number = 2 * candidate.plan.num_microbatches
  if number > _MAX_MICROBATCHES:
    return None
  batches = dataclasses.replace(
    candidate.settings["batches"], num_microbatches=number
  )
  return _candidate({**candidate.settings, "batches": batches}, topology, build)

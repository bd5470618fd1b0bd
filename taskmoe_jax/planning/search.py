"""Searches for the best way to train on a topology, most promising first.

Compiling a step takes minutes, so candidates are ordered by what is known
beforehand, and only the first of them are compiled. A candidate is a mesh
(`data`, `expert`, `model`, FSDP or not), a number of microbatches, and what is
recomputed. Known beforehand are

- what a device must hold before the first step: if that exceeds its memory, the
  mesh is left out;
- the minimum that a device has to send (`planning.communication_bound`), at the
  speed of its links, with the gradients once per microbatch, since XLA sums
  them in each;
- the minimum that it recomputes, at the chip's peak: blocks' forward passes for
  `full`, their attention for `all_but_products`.

Candidates are ordered by the sum of these seconds. For each mesh the variant
that saves no memory comes first; more microbatches and recomputation only make
it slower. So a mesh is done once one of its variants fits, and after one that
does not fit, variants that cannot save enough are skipped.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.models.config import ModelConfig, Rematerialize
from taskmoe_jax.models.flops import token_flops
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.planning.communication_bound import (
  communication_lower_bound,
  gradient_bytes,
)
from taskmoe_jax.planning.pod_report import Report
from taskmoe_jax.planning.programs import Plan, bytes_of
from taskmoe_jax.planning.topologies import Topology
from taskmoe_jax.train.batch_shape import BatchShape

# Beyond this, shards of a matrix are too thin for the chip.
_MAX_MODEL = 8
_MICROBATCHES = (1, 2, 4, 8, 16)

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A way to train, and what is known about it before compiling.

  Attributes:
    settings: Arguments of `train.loop.train`.
    partitioning: Its mesh.
    held_bytes: Bytes of the state on one device.
    sending_s: Seconds of communication.
    repeating_s: Seconds of recomputation.
  """

  settings: Settings
  partitioning: Partitioning
  held_bytes: int
  sending_s: float
  repeating_s: float

  @property
  def num_microbatches(self) -> int:
    return self.settings["batches"].num_microbatches

  @property
  def rematerialize(self) -> Rematerialize:
    return self.settings["model"].rematerialize

  @property
  def saving(self) -> int:
    """Grows with the amount of recomputation."""
    return list(Rematerialize).index(self.rematerialize)

  @property
  def label(self) -> str:
    sizes = self.partitioning.mesh.shape
    mesh = " ".join(f"{name} {size}" for name, size in sizes.items())
    fsdp = ", fsdp" if self.partitioning.fsdp else ""
    return (
      f"{mesh}{fsdp}, microbatches {self.num_microbatches}, rematerialize"
      f" {self.rematerialize}"
    )

  @property
  def flags(self) -> str:
    """The flags for `taskmoe train`."""
    sizes = self.partitioning.mesh.shape
    names = "data", "expert", "model"
    return " ".join(
      [
        *(f"--gin.meshes.MeshShape.{name}={sizes[name]}" for name in names),
        f"--gin.FSDP={self.partitioning.fsdp}",
        f"--gin.MICROBATCHES={self.num_microbatches}",
        f"--gin.REMATERIALIZE={self.rematerialize}",
      ]
    )


def candidates(
  settings: Settings,
  topology: Topology,
  build: Callable[[Settings, Partitioning], Plan],
) -> list[Candidate]:
  """All whose state a device can hold, most promising first."""
  found: list[Candidate] = []
  for mesh, fsdp in _meshes(settings["mesh"], topology):
    of_mesh = {**settings, "mesh": mesh, "fsdp": fsdp}
    found += _of_mesh(of_mesh, topology, build)
  if not found:
    raise TaskMoeError(
      f"no mesh of {topology.num_devices} devices serves this recipe: none"
      f" divides its {settings['batches'].batch_size} rows and its widths, and"
      " holds its state. Set BATCH_SIZE, or --topology to a larger one."
    )
  return sorted(
    found,
    key=lambda found: (
      found.sending_s + found.repeating_s,
      found.num_microbatches,
      found.held_bytes,
    ),
  )


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


def _of_mesh(
  settings: Settings,
  topology: Topology,
  build: Callable[[Settings, Partitioning], Plan],
) -> Iterator[Candidate]:
  """Yields nothing if something does not divide or the state is too large.

  One plan serves all variants: what has to be sent depends only on the mesh and
  the number of microbatches.
  """
  settings = {**settings, "batches": _microbatched(settings, 1)}
  try:
    mesh = make_mesh(settings["mesh"], topology.devices)
    parts = Partitioning(mesh, settings["fsdp"])
    plan = build(settings, parts)
  except TaskMoeError:
    return
  held = bytes_of(plan.program.abstract_state())
  if held >= topology.hbm_bytes:
    return
  for number in _MICROBATCHES:
    batches = _microbatched(settings, number)
    try:
      batches.check_divides(parts)
    except TaskMoeError:
      return
    in_parts = dataclasses.replace(plan, batches=batches)
    sent = sum(communication_lower_bound(in_parts).values())
    sent += (number - 1) * gradient_bytes(plan)
    for kind in Rematerialize:
      model = dataclasses.replace(settings["model"], rematerialize=kind)
      repeated = repeated_flops(model, batches) / topology.num_devices
      yield Candidate(
        {**settings, "model": model, "batches": batches},
        parts,
        held,
        sent / topology.ici_bytes_per_second,
        repeated / topology.peak_flops,
      )


def repeated_flops(model: ModelConfig, batches: BatchShape) -> int:
  """FLOPs that a step recomputes, on all devices together."""

  def forward(*lengths: int) -> int:
    source, target = lengths
    token = token_flops(model, source_length=source, target_length=target)
    source, target = batches.lengths
    return batches.batch_size * (token.source * source + token.target * target)

  if model.rematerialize is Rematerialize.NONE:
    return 0
  everything = forward(*batches.lengths)
  if model.rematerialize is Rematerialize.ALL_BUT_PRODUCTS:
    return everything - forward(0, 0)
  softmax = 2 * model.embed_dim * model.vocab_size
  return everything - batches.batch_size * batches.target_length * softmax


def _microbatched(settings: Settings, number: int) -> BatchShape:
  return dataclasses.replace(settings["batches"], num_microbatches=number)


def search(
  settings: Settings,
  topology: Topology,
  *,
  limit: int,
  build: Callable[[Settings, Partitioning], Plan],
  compiled: Callable[[Plan, str], Report],
) -> list[tuple[Candidate, Report]]:
  """Compiles the most promising candidates; returns the best first.

  Args:
    settings: Arguments of `train.loop.train`; mesh, FSDP, microbatches and
      rematerialization are chosen by the search.
    topology: Where to train.
    limit: Maximum number of programs to compile.
    build: Makes a plan from settings and a mesh.
    compiled: Compiles a plan and reports on it under the given name.
  """
  check_at_least(1, "--search", programs=limit)
  waiting = candidates(settings, topology, build)
  found: list[tuple[Candidate, Report]] = []
  while waiting and len(found) < limit:
    tried = waiting.pop(0)
    plan = build(tried.settings, tried.partitioning)
    report = compiled(plan, tried.label)
    found.append((tried, report))
    waiting = [c for c in waiting if _is_worth_it(c, tried, report)]
  return sorted(
    found,
    key=lambda pair: (
      not pair[1].fits,
      pair[1].estimate_s or float("inf"),
      pair[1].memory.total,
    ),
  )


def _is_worth_it(
  candidate: Candidate, tried: Candidate, report: Report
) -> bool:
  """Whether a candidate is still worth compiling after another."""
  if candidate.partitioning != tried.partitioning:
    return True
  if report.fits:
    return False
  if candidate.num_microbatches <= tried.num_microbatches:
    return candidate.saving > tried.saving
  if candidate.saving != tried.saving:
    return True
  # Temporaries shrink with the rows of a microbatch at best.
  parts = candidate.num_microbatches / tried.num_microbatches
  room = report.hbm_bytes - report.memory.arguments
  return report.memory.temporaries / parts < room

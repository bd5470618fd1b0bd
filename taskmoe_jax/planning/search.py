"""How to train on a topology: all that makes sense, in order of promise.

To compile a step takes minutes, so candidates come by what can be told
beforehand, and only the first of them are compiled. A candidate is a mesh
(`data`, `expert`, `model`, FSDP or not), a number of microbatches, and what is
computed twice. Known of it are

- what a device must hold before the first step: where that is more than there
  is, the mesh is left out;
- the least that a device has to send (`planning.communication_bound`), at the
  speed of its links, with the gradients once for each microbatch, since XLA
  sums them in each;
- the least that it computes twice, at the chip's peak: blocks' forward passes
  for `full`, their attention for `all_but_products`.

They come by the sum of these seconds. Of each mesh that is first whatever saves
no memory; more microbatches and computing twice only make it slower. So a mesh
of which one has fitted is done, and where one has not fitted none is compiled
that cannot save enough.
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
  gradient_bytes,
  least_communication,
)
from taskmoe_jax.planning.pod_report import Report
from taskmoe_jax.planning.programs import Plan, bytes_of
from taskmoe_jax.planning.topologies import Topology
from taskmoe_jax.train.batch_shape import BatchShape

# Wider than this a matrix is cut into slices too thin for the chip.
_MAX_MODEL = 8
_MICROBATCHES = (1, 2, 4, 8, 16)

Settings = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Candidate:
  """A way to train, and what is known of it before anything is compiled.

  Attributes:
    settings: Arguments of `train.loop.train`.
    partitioning: Its mesh.
    held_bytes: Of the state, on one device.
    sending_s: Seconds to send what there is to send.
    repeating_s: Seconds to compute twice what is.
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
    """Grows with what is computed twice."""
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
    """What to give to `taskmoe train`."""
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
  """All whose state a device can hold, the most promising first."""
  found = []
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
  """None where something does not divide, or the state is too large.

  One plan stands for all: what has to be sent depends on nothing but its
  mesh and number of microbatches.
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
    in_parts = dataclasses.replace(plan, num_microbatches=number)
    sent = sum(least_communication(in_parts).values())
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
  """FLOPs of what a step computes twice, of all devices together."""

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
  """Compiles the most promising candidates; the best that fits comes first.

  Args:
    settings: Arguments of `train.loop.train`; mesh, FSDP, microbatches and
      rematerialisation are all the search's.
    topology: Where to train.
    limit: How many programs to compile at most.
    build: Makes a plan of settings on a mesh.
    compiled: Compiles a plan and reports on it, by the name it is given.
  """
  check_at_least(1, "--search", programs=limit)
  waiting = candidates(settings, topology, build)
  found = []
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
  """Whether to compile a candidate, after another has been."""
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

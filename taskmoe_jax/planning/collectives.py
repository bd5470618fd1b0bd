"""Communication between the devices of a compiled program, by mesh axes.

The bytes of a collective are one device's buffer: the input of an all-reduce,
reduce-scatter, all-to-all and permute, the output of an all-gather. *Sent* is
the minimum that leaves a device, with the best known algorithm: 2(n-1)/n of an
all-reduce over n devices, (n-1)/n of the others, all of a permute.

A collective whose groups hold devices of several slices crosses the data-center
network (DCN); all others stay on the links between the chips of a slice (ICI).
The TPU compiler splits one that would cross: a reduce-scatter within each
slice, a `send` and `recv` of what is left between them, which its attributes
call an all-reduce, and an all-gather within each slice. A program's undivided
collective across slices is counted in the same way.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jax.sharding import Mesh
from jaxtyping import Int

from taskmoe_jax import axes
from taskmoe_jax.planning.hlo import Instruction, Module

KINDS = (
  "all-reduce",
  "all-gather",
  "reduce-scatter",
  "all-to-all",
  "ragged-all-to-all",
  "collective-permute",
  "collective-broadcast",
)

_STARTS = {f"{kind}-start": kind for kind in KINDS}
_IOTA = re.compile(
  r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?"
)
_LISTED = re.compile(r"replica_groups=\{((?:\{[\d,]*\},?)+)\}")
_BY_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_PAIRS = re.compile(r"source_target_pairs=\{((?:\{\d+,\d+\},?)*)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
  """All collectives of a kind over the same axes, in one step.

  Attributes:
    kind: Such as `all-reduce`.
    axes: Mesh axes that its groups span; none if they span no whole axes.
    count: How many run in a step.
    num_bytes: Bytes of all of them, see the top of this file.
    ici_bytes: Sent over the links of a slice, by one device.
    dcn_bytes: Sent over the data-centre network, by one device.
  """

  kind: str
  axes: tuple[str, ...]
  count: int
  num_bytes: int
  ici_bytes: int
  dcn_bytes: int

  @property
  def network(self) -> str:
    return "DCN" if self.dcn_bytes else "ICI"


@dataclasses.dataclass(frozen=True)
class Traffic:
  """What one collective sends, once.

  Attributes:
    kind: As above.
    axes: As above.
    num_bytes: As above.
    group: How many devices take part in one group.
    slices: How many slices these devices are in.
  """

  kind: str
  axes: tuple[str, ...]
  num_bytes: int
  group: int
  slices: int

  @property
  def ici_bytes(self) -> float:
    within = self.group // self.slices
    return self.num_bytes * _share(self.kind, within)

  @property
  def dcn_bytes(self) -> float:
    if self.slices == 1:
      return 0.0
    within = self.group // self.slices
    left: float = self.num_bytes
    if self.kind in ("all-reduce", "reduce-scatter", "all-gather"):
      left /= within
    return left * _share(self.kind, self.slices)


def _share(kind: str, devices: int) -> float:
  """The minimum share of a collective's bytes that a device sends."""
  if devices == 1:
    return 0.0
  if kind == "all-reduce":
    return 2 * (devices - 1) / devices
  if kind in ("collective-permute", "collective-broadcast"):
    return 1.0
  return (devices - 1) / devices


ASYNC_START, ASYNC_DONE = "async-collective-start", "async-collective-done"
_REDUCE_SCATTER = "all-reduce-scatter"


def sent_by(
  module: Module,
  line: Instruction,
  mesh: Mesh,
  slices: Int[np.ndarray, "devices"],
) -> tuple[Instruction, Traffic] | None:
  """The collective that a line of a program is, or stands for.

  The TPU compiler hides some in fusions: a reduce-scatter as an all-reduce of
  which a part is kept, and an asynchronous one as a fusion that starts it, some
  that continue it beside their own work, and one that ends it, each with a copy
  of the collective; only the first counts.
  """
  inner = line
  if line.opcode == "fusion":
    if not (line.name.startswith(ASYNC_START) or _is_reduce_scatter(line)):
      return None
    (inner,) = [i for i in module.inside(line) if i.opcode in KINDS]
  elif line.opcode == "async-start":
    inner = module.computations[next(iter(line.called.values()))[0]][-1]
  traffic = traffic_of(inner, mesh, slices)
  if traffic is None or traffic.group == 1:
    return None
  if _is_reduce_scatter(line):
    traffic = dataclasses.replace(traffic, kind="reduce-scatter")
  return inner, traffic


def _is_reduce_scatter(line: Instruction) -> bool:
  return line.called.get("calls", [""])[0].startswith(_REDUCE_SCATTER)


def traffic_of(
  instruction: Instruction, mesh: Mesh, slices: Int[np.ndarray, "devices"]
) -> Traffic | None:
  """What a line of a program sends; None if it is not a collective.

  Args:
    instruction: The line.
    mesh: What the program was compiled for; its groups are positions in it.
    slices: The slice of each device, in mesh order.
  """
  kind = _STARTS.get(instruction.opcode, instruction.opcode)
  if kind == "send":
    return _between_slices(instruction, slices)
  if kind not in KINDS:
    return None
  groups = replica_groups(instruction, mesh.size)
  group = groups[0]
  num_bytes = sum(shape.num_bytes for shape in _payload(instruction, kind))
  if kind == "reduce-scatter":
    num_bytes *= len(group)
  return Traffic(
    kind,
    axes_of(groups, mesh.shape),
    num_bytes,
    len(group),
    max(len(set(slices[list(members)])) for members in groups),
  )


def _between_slices(
  instruction: Instruction, slices: Int[np.ndarray, "devices"]
) -> Traffic | None:
  """What is sent over the data-centre network; other transfers are to hosts."""
  kind = instruction.attribute(r'_xla_megascale_transfer_type="(\w+)"')
  if kind is None:
    return None
  number = len(set(slices.tolist()))
  return Traffic(
    kind.lower().replace("_", "-"),
    (axes.SLICE_MESH,),
    instruction.shapes[0].num_bytes,
    number,
    number,
  )


def _payload(instruction: Instruction, kind: str):
  """The output arrays of a collective.

  An asynchronous start lists its operands first, then its outputs, then
  counters.
  """
  if kind == instruction.opcode:
    return instruction.shapes
  arrays = [shape for shape in instruction.shapes if shape.dims]
  if kind == "all-reduce":
    return arrays
  return arrays[len(arrays) // 2 :]


def replica_groups(
  instruction: Instruction, num_devices: int
) -> list[tuple[int, ...]]:
  """The groups of a collective, in any of the four notations."""
  text = instruction.text
  if found := _PAIRS.search(text):
    pairs = re.findall(r"(\d+),(\d+)", found[1])
    return _connected(tuple(map(int, pair)) for pair in pairs)
  if found := _BY_MESH.search(text):
    sides = re.findall(r"'([^']+)'=(\d+)", found[1])
    over = re.findall(r"'([^']+)'", found[2])
    names, sizes = zip(*sides, strict=True)
    ids = np.arange(num_devices).reshape(list(map(int, sizes)))
    inner = [names.index(name) for name in over]
    outer = [place for place in range(len(names)) if place not in inner]
    size = math.prod(ids.shape[place] for place in inner)
    grouped = ids.transpose(outer + inner).reshape(-1, size)
    return [tuple(row.tolist()) for row in grouped]
  if found := _IOTA.search(text):
    shape, dims, order = (
      [int(n) for n in part.split(",")] if part else None
      for part in found.groups()
    )
    ids = np.arange(num_devices).reshape(dims)
    grouped = (ids.transpose(order) if order else ids).reshape(shape)
    return [tuple(row.tolist()) for row in grouped]
  if found := _LISTED.search(text):
    rows = re.findall(r"\{([\d,]+)\}", found[1])
    return [tuple(map(int, row.split(","))) for row in rows]
  return [tuple(range(num_devices))]


def _connected(pairs: Iterable[tuple[int, ...]]) -> list[tuple[int, ...]]:
  """Devices that a permutation connects, directly or through others."""
  groups: list[set[int]] = []
  for pair in pairs:
    touched = [group for group in groups if group & set(pair)]
    groups = [group for group in groups if group not in touched]
    groups.append(set(pair).union(*touched))
  return [tuple(sorted(group)) for group in groups] or [(0,)]


def axes_of(
  groups: Sequence[tuple[int, ...]], sizes: Mapping[str, int]
) -> tuple[str, ...]:
  """The mesh axes that a group spans, or none if it spans a part of one."""
  names, shape = list(sizes), tuple(sizes.values())
  places = np.array(np.unravel_index(list(groups[0]), shape))
  varying = tuple(
    name
    for name, row in zip(names, places, strict=True)
    if len(set(row.tolist())) > 1
  )
  whole = math.prod(sizes[name] for name in varying) == len(groups[0])
  return varying if whole else ()


@dataclasses.dataclass
class _Sum:
  """As in `Collective`, before rounding."""

  count: int = 0
  num_bytes: int = 0
  ici_bytes: float = 0.0
  dcn_bytes: float = 0.0


def collectives_of(
  module: Module, mesh: Mesh, slices: Int[np.ndarray, "devices"]
) -> list[Collective]:
  """What a step sends, summed by kind and axes, most bytes first."""
  found: dict[tuple, _Sum] = collections.defaultdict(_Sum)
  for instruction, times in module.executed():
    sent = sent_by(module, instruction, mesh, slices)
    if sent is None:
      continue
    _, traffic = sent
    total = found[traffic.kind, traffic.axes, traffic.slices > 1]
    total.count += times
    total.num_bytes += times * traffic.num_bytes
    total.ici_bytes += times * traffic.ici_bytes
    total.dcn_bytes += times * traffic.dcn_bytes
  rows = [
    Collective(
      kind,
      names,
      total.count,
      total.num_bytes,
      round(total.ici_bytes),
      round(total.dcn_bytes),
    )
    for (kind, names, _), total in found.items()
  ]
  return sorted(rows, key=lambda row: -row.num_bytes)

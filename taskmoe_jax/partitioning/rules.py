"""Maps logical axes to mesh axes: the whole sharding policy.

Model code names logical axes only (`constrain(x, "act_batch", ...)`); what they
mean on a mesh is decided here, and changing it changes no model code.
"""

import contextlib
import contextvars
import dataclasses
import math
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError

MeshAxes = str | tuple[str, ...] | None

# Rows are split over slices too. Parameters are not: each slice has all of
# them, since the network between slices is slow.
_ROWS = (axes.SLICE_MESH, axes.DATA_MESH, axes.EXPERT_MESH)

_RULES: Mapping[str, MeshAxes] = {
  axes.VOCAB: axes.MODEL_MESH,
  axes.EMBED: None,
  axes.HEADS: axes.MODEL_MESH,
  axes.KV: None,
  axes.MLP: axes.MODEL_MESH,
  axes.EXPERT: axes.EXPERT_MESH,
  axes.TASK: None,
  axes.LAYER: None,
  axes.POSITION: None,
  axes.FETCHED_EXPERT: None,
  axes.ACT_BATCH: _ROWS,
  axes.ACT_LENGTH: None,
  axes.ACT_EMBED: None,
  axes.ACT_HEADS: axes.MODEL_MESH,
  axes.ACT_KV: None,
  axes.ACT_MLP: axes.MODEL_MESH,
  axes.ACT_VOCAB: axes.MODEL_MESH,
}


def logical_rules(*, fsdp: bool) -> dict[str, MeshAxes]:
  """Returns the rules; with `fsdp`, parameters are also split over `data`.

  FSDP is the rule `embed -> data`: each device stores a shard of every matrix
  and XLA gathers it where it is used (ZeRO-3). Experts that are fetched
  (`moe.expert_fetch`) are split along their hidden width instead, which one
  all-to-all reassembles.
  """
  fetched = (axes.EXPERT_MESH, axes.MODEL_MESH)
  return {
    **_RULES,
    axes.EMBED: axes.DATA_MESH if fsdp else None,
    axes.FETCHED_MLP: (axes.DATA_MESH, *fetched) if fsdp else fetched,
  }


@dataclasses.dataclass(frozen=True)
class Partitioning:
  """A mesh and the rules that map logical axes to it; hashable, for `jit`."""

  mesh: Mesh
  fsdp: bool = False

  def spec(self, logical_axes: tuple[str | None, ...]) -> PartitionSpec:
    """Maps logical axes to mesh axes; an unknown name is our own bug."""
    rules = logical_rules(fsdp=self.fsdp)
    return PartitionSpec(
      *(None if name is None else rules[name] for name in logical_axes)
    )

  def sharding(self, *logical_axes: str | None) -> NamedSharding:
    return NamedSharding(self.mesh, self.spec(logical_axes))

  @property
  def replicated(self) -> NamedSharding:
    return NamedSharding(self.mesh, PartitionSpec())

  @property
  def platform(self) -> str:
    """`cpu`, `gpu` or `tpu`; the mesh may exist only for the compiler."""
    return self.mesh.devices.flat[0].platform

  @property
  def num_row_shards(self) -> int:
    """Number of parts that the rows of a batch are split into."""
    return math.prod(self.mesh.shape[axis] for axis in _ROWS)

  def rows_here(self, num_rows: int) -> Int[np.ndarray, "rows"]:
    """The rows of a batch that are on this process' devices, in order."""
    places = self.sharding(axes.ACT_BATCH).addressable_devices_indices_map(
      (num_rows,)
    )
    rows = np.arange(num_rows)
    return np.unique(
      np.concatenate([rows[i[0]] for i in places.values() if i is not None])
    )

  def spread_rows(
    self, rows: np.ndarray, num_rows: int | None = None
  ) -> jax.Array:
    """Puts rows on the devices, each process on its own ones.

    Args:
      rows: The rows of this process' devices (`rows_here`), or all rows.
      num_rows: Number of rows of all processes; len(rows) unless given.
    """
    num_rows = len(rows) if num_rows is None else num_rows
    here = np.arange(num_rows)
    if len(rows) != num_rows:
      here = self.rows_here(num_rows)

    def part(index):
      begin, end, _ = index[0].indices(num_rows)
      return rows[np.searchsorted(here, begin) : np.searchsorted(here, end)]

    return jax.make_array_from_callback(
      (num_rows, *rows.shape[1:]), self.sharding(axes.ACT_BATCH), part
    )

  def parameter_sharding(
    self,
    path: str,
    shape: tuple[int, ...],
    logical_axes: tuple[str | None, ...],
  ) -> NamedSharding:
    """Sharding of one parameter.

    Raises:
      TaskMoeError: An axis does not divide. Replicating it instead, as other
        frameworks do, would silently cost the memory that it should save.
    """
    spec = self.spec(logical_axes)
    for size, name, entry in zip(shape, logical_axes, spec, strict=True):
      names = (entry,) if isinstance(entry, str) else entry or ()
      if size % math.prod(self.mesh.shape[axis] for axis in names):
        found = " and ".join(
          f"the {self.mesh.shape[axis]} devices of mesh axis {axis!r}"
          for axis in names
        )
        settings = " and ".join(f"MeshShape.{axis}" for axis in names)
        raise TaskMoeError(
          f"parameter {path}: axis {name!r} of size {size} does not divide over"
          f" {found}. Set {settings} to a divisor of {size}."
        )
    return NamedSharding(self.mesh, spec)


_ACTIVE: contextvars.ContextVar[Partitioning | None] = contextvars.ContextVar(
  "active_partitioning", default=None
)


@contextlib.contextmanager
def activate(partitioning: Partitioning) -> Iterator[None]:
  """Enables `constrain` for the functions that are traced inside."""
  token = _ACTIVE.set(partitioning)
  try:
    yield
  finally:
    _ACTIVE.reset(token)


def active() -> Partitioning | None:
  """The partitioning being traced for, if its mesh has several devices."""
  partitioning = _ACTIVE.get()
  if partitioning is None or partitioning.mesh.size == 1:
    return None
  return partitioning


def platform() -> str:
  """The platform being traced for: the active mesh's, if any."""
  partitioning = _ACTIVE.get()
  return partitioning.platform if partitioning else jax.default_backend()


def device_kind() -> str:
  """The kind of device of that platform, such as `TPU v3`."""
  partitioning = _ACTIVE.get()
  devices = partitioning.mesh.devices.flat if partitioning else jax.devices()
  return devices[0].device_kind


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """Shards an activation on the active mesh; without one, returns it as is."""
  assert x.ndim == len(logical_axes), (x.shape, logical_axes)
  partitioning = active()
  if partitioning is None:
    return x
  return jax.lax.with_sharding_constraint(
    x, partitioning.sharding(*logical_axes)
  )

"""Which mesh axis each logical axis lies on: the whole sharding policy.

Model code names logical axes only (`constrain(x, "act_batch", ...)`); what they
mean on a mesh is decided here, and changing it changes no model code.
"""

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator, Mapping

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError

MeshAxes = str | tuple[str, ...] | None

_ROWS = (axes.DATA_MESH, axes.EXPERT_MESH)

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
  axes.ACT_BATCH: _ROWS,
  axes.ACT_LENGTH: None,
  axes.ACT_EMBED: None,
  axes.ACT_HEADS: axes.MODEL_MESH,
  axes.ACT_KV: None,
  axes.ACT_MLP: axes.MODEL_MESH,
  axes.ACT_VOCAB: axes.MODEL_MESH,
  axes.ACT_EXPERT: axes.EXPERT_MESH,
  axes.ACT_GROUP: axes.DATA_MESH,
}


def logical_rules(*, fsdp: bool) -> dict[str, MeshAxes]:
  """Returns the rules; with `fsdp`, parameters are also split over `data`.

  FSDP is one changed rule, `embed -> data`: each device keeps a slice of every
  matrix at rest and XLA gathers it where it is used (ZeRO-3).
  """
  return {**_RULES, axes.EMBED: axes.DATA_MESH if fsdp else None}


@dataclasses.dataclass(frozen=True)
class Partitioning:
  """A mesh and the rules that lay logical axes on it; hashable, for `jit`."""

  mesh: Mesh
  fsdp: bool = False

  def spec(self, logical_axes: tuple[str | None, ...]) -> PartitionSpec:
    """Maps logical axes to mesh axes; an unknown word is our own bug."""
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
  def num_row_shards(self) -> int:
    """Into how many parts the rows of a batch are split."""
    return self.mesh.shape[axes.DATA_MESH] * self.mesh.shape[axes.EXPERT_MESH]

  def spread_rows(self, rows: np.ndarray) -> jax.Array:
    """Lays rows that every host holds on the devices, each host on its own."""
    return jax.make_array_from_callback(
      rows.shape, self.sharding(axes.ACT_BATCH), lambda index: rows[index]
    )

  def parameter_sharding(
    self, path: str, shape: tuple[int, ...], logical_axes: tuple[str, ...]
  ) -> NamedSharding:
    """Sharding of one parameter.

    Raises:
      TaskMoeError: If an axis does not divide. Replicating it instead, as
        other frameworks do, would silently cost the memory one wanted to save.
    """
    spec = self.spec(logical_axes)
    for size, name, mesh_axis in zip(shape, logical_axes, spec, strict=True):
      if mesh_axis is not None and size % self.mesh.shape[mesh_axis]:
        raise TaskMoeError(
          f"parameter {path}: axis {name!r} of size {size} does not divide over"
          f" the {self.mesh.shape[mesh_axis]} devices of mesh axis"
          f" {mesh_axis!r}. Set MeshShape.{mesh_axis} to a divisor of {size}."
        )
    return NamedSharding(self.mesh, spec)


_ACTIVE: contextvars.ContextVar[Partitioning | None] = contextvars.ContextVar(
  "active_partitioning", default=None
)


@contextlib.contextmanager
def activate(partitioning: Partitioning) -> Iterator[None]:
  """Makes `constrain` act, for the functions that are traced inside."""
  token = _ACTIVE.set(partitioning)
  try:
    yield
  finally:
    _ACTIVE.reset(token)


def constrain(x: jax.Array, *logical_axes: str | None) -> jax.Array:
  """Lays an activation on the active mesh; without one, returns it as it is."""
  partitioning = _ACTIVE.get()
  assert x.ndim == len(logical_axes), (x.shape, logical_axes)
  if partitioning is None or partitioning.mesh.size == 1:
    return x
  return jax.lax.with_sharding_constraint(
    x, partitioning.sharding(*logical_axes)
  )

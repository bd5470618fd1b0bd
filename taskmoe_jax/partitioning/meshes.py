"""Device meshes with the axes `data`, `expert` and `model`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """How many devices lie along each mesh axis; one -1 takes all that are left.

  `data` and `expert` both split the rows of a batch; along `expert` the experts
  are split as well, along `model` heads, hidden widths and vocabulary.
  """

  data: int = -1
  expert: int = 1
  model: int = 1

  def sizes(self, num_devices: int) -> tuple[int, ...]:
    """Fills the -1 up so that the axes multiply to `num_devices`."""
    given = (self.data, self.expert, self.model)
    known = math.prod(size for size in given if size != -1)
    wrong = given.count(-1) > 1 or any(s < 1 and s != -1 for s in given)
    if not wrong and -1 in given and num_devices % known == 0:
      return tuple(num_devices // known if s == -1 else s for s in given)
    if wrong or known != num_devices:
      raise TaskMoeError(
        f"a mesh of data={self.data}, expert={self.expert}, model={self.model}"
        f" does not fill {num_devices} devices: the sizes must multiply to"
        f" {num_devices}, and one of them may be -1. Set MeshShape.data,"
        " MeshShape.expert, MeshShape.model."
      )
    return given


def make_mesh(
  shape: MeshShape, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """Arranges devices so that neighbours on the wire are neighbours in the mesh.

  Args:
    shape: Sizes of the axes.
    devices: All devices of all processes unless given; real ones, or others
      that have a `platform` (`train.simulated_devices`).
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = shape.sizes(len(devices))
  if devices[0].platform == "tpu":
    grid = mesh_utils.create_device_mesh(sizes, devices)
  else:
    grid = np.asarray(devices).reshape(sizes)
  return jax.sharding.Mesh(grid, axes.MESH_AXES)

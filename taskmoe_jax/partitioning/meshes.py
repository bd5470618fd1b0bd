"""Device meshes with the axes `slice`, `data`, `expert` and `model`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError


@dataclasses.dataclass(frozen=True)
class SimulatedDevice:
  """What meshes and engines ask of a device.

  Its platform is none of JAX's, so that programs are traced without
  platform-specific implementations such as kernels.
  """

  id: int
  process_index: int = 0
  slice_index: int = 0
  platform: str = "simulated"
  device_kind: str = "simulated"


def simulated_devices(number: int) -> list[SimulatedDevice]:
  """`number` devices in one slice."""
  if number < 1:
    raise TaskMoeError(f"devices={number} is not at least 1. Set --devices.")
  return [SimulatedDevice(index) for index in range(number)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshShape:
  """Number of devices along each mesh axis; one -1 takes all that remain.

  `slices`, `data` and `expert` all split the rows of a batch; `expert` also
  splits the experts; `model` splits heads, hidden widths and vocabulary.
  `slices` counts groups of devices with a fast network inside each and a slow
  one between them, such as the slices of a multi-slice TPU or nodes with GPUs:
  every slice has all parameters, and only gradients are summed over slices.
  """

  slices: int = 1
  data: int = -1
  expert: int = 1
  model: int = 1

  def sizes(self, num_devices: int) -> tuple[int, ...]:
    """Resolves the -1 so that the axes multiply to `num_devices`."""
    given = (self.slices, self.data, self.expert, self.model)
    known = math.prod(size for size in given if size != -1)
    wrong = given.count(-1) > 1 or any(s < 1 and s != -1 for s in given)
    if not wrong and -1 in given and num_devices % known == 0:
      return tuple(num_devices // known if s == -1 else s for s in given)
    if wrong or known != num_devices:
      raise TaskMoeError(
        f"a mesh of slices={self.slices}, data={self.data},"
        f" expert={self.expert}, model={self.model} does not fill"
        f" {num_devices} devices: the sizes must multiply to {num_devices}, and"
        " one of them may be -1. Set MeshShape.slices, MeshShape.data,"
        " MeshShape.expert, MeshShape.model."
      )
    return given


def make_mesh(
  shape: MeshShape, devices: Sequence[Any] | None = None
) -> jax.sharding.Mesh:
  """Arranges devices so that physical neighbors are neighbors in the mesh.

  Args:
    shape: Sizes of the axes.
    devices: All devices of all processes unless given; real ones, or others
      that have a `platform`, such as `SimulatedDevice`.

  Raises:
    TaskMoeError: The sizes do not multiply to the number of devices, or a
      multi-slice TPU has another number of slices.
  """
  devices = list(jax.devices() if devices is None else devices)
  sizes = shape.sizes(len(devices))
  if devices[0].platform == "tpu":
    grid = tpu_grid(sizes, devices)
  else:
    # In the order of their processes, so that a slice is a range of them.
    grid = np.asarray(devices).reshape(sizes)
  return jax.sharding.Mesh(grid, axes.MESH_AXES)


def tpu_grid(sizes: tuple[int, ...], devices: list) -> np.ndarray:
  """Arranges TPU devices by their coordinates, slices first."""
  slices, *inside = sizes
  found = len({getattr(device, "slice_index", 0) for device in devices})
  if found != slices and found > 1:
    raise TaskMoeError(
      f"slices={slices}, but these {len(devices)} devices are {found} slices of"
      f" TPUs. Set MeshShape.slices to {found}."
    )
  # A side of the hardware is split between axes only where it must be.
  if found == 1:
    # Several slices of the mesh on one hardware slice: to try them out.
    return mesh_utils.create_device_mesh(
      sizes, devices, allow_split_physical_axes=True
    )
  return mesh_utils.create_hybrid_device_mesh(
    (1, *inside), (slices, 1, 1, 1), devices, allow_split_physical_axes=True
  )

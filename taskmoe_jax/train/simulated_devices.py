"""Devices that are not there: a mesh of any size, to plan for.

Programs can be traced for them and arrays laid out on them, in shapes alone;
nothing can be compiled or run. For a program as a real pod would run it there
is `taskmoe precompile`.
"""

import dataclasses

from taskmoe_jax.errors import TaskMoeError


@dataclasses.dataclass(frozen=True)
class SimulatedDevice:
  """What meshes and engines ask of a device.

  Its platform is none of JAX's, so that where a platform has a way of its own,
  such as a kernel, the program is traced in the one that all others take.
  """

  id: int
  process_index: int = 0
  slice_index: int = 0
  platform: str = "simulated"
  device_kind: str = "simulated"


def simulated_devices(number: int) -> list[SimulatedDevice]:
  """So many devices, in one slice."""
  if number < 1:
    raise TaskMoeError(f"devices={number} is not at least 1. Set --devices.")
  return [SimulatedDevice(index) for index in range(number)]

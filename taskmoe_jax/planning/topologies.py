"""TPU topologies that need not exist here: devices, memory and networks."""

import dataclasses
import functools
import os
import re

import jax
import numpy as np
from jax.experimental import topologies
from jaxtyping import Int

from taskmoe_jax.errors import TaskMoeError, check_at_least, one_of
from taskmoe_jax.models.flops import peak_flops

_GIB = 2**30
_GIGABIT = 1e9 / 8


@dataclasses.dataclass(frozen=True)
class Chip:
  """What the report needs to know of a kind of TPU.

  Attributes:
    hbm_gib: Main memory that a program may use, of one `jax.Device`, as the
      compiler names it when a program is too large (libtpu 0.0.42).
    products_per_cycle: Multiplications in bfloat16 that one device does in a
      cycle: its matrix units, times their sides. The published peak over this
      gives the clock rate.
    devices: `jax.Device`s per chip. They share its links.
    links_gbps: Gbit/s that a chip sends over all of its links together.
    dims: Number of dimensions of the torus that the chips form.
    dcn_gbps: Gbit/s of a chip into the data-centre network, or None where
      nothing is published.
  """

  hbm_gib: float
  products_per_cycle: int
  devices: int
  links_gbps: int
  dims: int
  dcn_gbps: float | int | None = None


# Links: cloud.google.com/tpu/docs; of v2 and v3, Jouppi et al., "Ten lessons
# from three generations" (ISCA 2021), table 1.
CHIPS = {
  "v2": Chip(7.48, 128 * 128, 2, 4 * 496, 2),
  "v3": Chip(15.48, 2 * 128 * 128, 2, 4 * 656, 2),
  "v4": Chip(30.75, 8 * 128 * 128, 1, 2400, 3),
  "v5e": Chip(15.75, 4 * 128 * 128, 1, 1600, 2, 6400 / 256),
  "v5p": Chip(95.74, 8 * 128 * 128, 1, 4800, 3, 50),
  "v6e": Chip(31.25, 4 * 256 * 256, 1, 3200, 2, 25600 / 256),
  "tpu7x": Chip(94.75, 4 * 256 * 256, 2, 9600, 3),
}

# A v4 chip is one device, as JAX makes it on a real one; the compiler's default
# would be two.
_CHIP_CONFIG = {"v4": {"chip_config_name": "megacore"}}


@dataclasses.dataclass(frozen=True)
class Topology:
  """Slices of TPU chips.

  Attributes:
    name: Such as `v5p:4x4x4`; chips along each side of a slice.
    slices: How many, joined by the data-centre network.
  """

  name: str
  slices: int = 1

  def __post_init__(self):
    check_at_least(1, "--slices", slices=self.slices)
    if not re.fullmatch(r"\w+:\d+(x\d+){1,2}", self.name):
      raise TaskMoeError(
        f"{self.name!r} is not a topology: write a kind and its chips along"
        " each side, such as v5e:4x8 or v5p:4x4x4. Set --topology."
      )
    if self.kind not in CHIPS:
      raise TaskMoeError(one_of("TPU", self.kind, CHIPS) + ". Set --topology.")

  @property
  def kind(self) -> str:
    return self.name.partition(":")[0]

  @property
  def chip(self) -> Chip:
    return CHIPS[self.kind]

  @property
  def hbm_bytes(self) -> int:
    return round(self.chip.hbm_gib * _GIB)

  @functools.cached_property
  def devices(self) -> list[jax.Device]:
    """Its devices, for which programs can be compiled but not run.

    Raises:
      TaskMoeError: libtpu is not installed, or does not know the topology.
    """
    # Otherwise libtpu asks a cloud's metadata server what it runs on, and
    # allows only one process, as if each used a TPU.
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    more = {"num_slices": self.slices} if self.slices > 1 else {}
    try:
      found = topologies.get_topology_desc(
        platform="tpu",
        topology_name=self.name,
        **_CHIP_CONFIG.get(self.kind, {}),
        **more,
      )
    except jax.errors.JaxRuntimeError as error:
      raise TaskMoeError(
        f"the TPU compiler does not know the topology {self.name!r}"
        f" ({str(error).partition(': ')[2].splitlines()[0]}). Set --topology to"
        " a shape of the kind's documentation."
      ) from None
    except RuntimeError as error:
      raise TaskMoeError(
        "the TPU compiler is missing: libtpu is not installed"
        f" ({str(error).splitlines()[0]}). Install it with pip install"
        " 'taskmoe-jax[tpu]'; no TPU is needed."
      ) from None
    return list(found.devices)

  @property
  def num_devices(self) -> int:
    return len(self.devices)

  @property
  def peak_flops(self) -> float:
    """FLOP/s in bfloat16 of one device, as published."""
    peak = peak_flops(self.devices[0].device_kind)
    assert peak is not None, self.kind
    return peak

  @property
  def hertz(self) -> float:
    return self.peak_flops / (2 * self.chip.products_per_cycle)

  @property
  def ici_bytes_per_second(self) -> float:
    """What one device can send over all links of its chip."""
    return self.chip.links_gbps * _GIGABIT / self.chip.devices

  @property
  def dcn_bytes_per_second(self) -> float | None:
    if self.chip.dcn_gbps is None:
      return None
    return self.chip.dcn_gbps * _GIGABIT / self.chip.devices


def slices_of(mesh: jax.sharding.Mesh) -> Int[np.ndarray, "devices"]:
  """The slice of each device, in mesh order; 0 if there is only one."""
  return np.array(
    [getattr(d, "slice_index", None) or 0 for d in mesh.devices.flat]
  )


def coordinates_of(mesh: jax.sharding.Mesh) -> Int[np.ndarray, "devices dims"]:
  """The coordinates of each device's chip in its slice, in mesh order.

  Devices of platforms without coordinates count as a row.
  """
  return np.array(
    [
      getattr(device, "coords", None) or (place,)
      for place, device in enumerate(mesh.devices.flat)
    ]
  )

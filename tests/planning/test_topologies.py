"""Topologies, and what is said where there is no compiler for them."""

import jax
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.flops import peak_flops
from taskmoe_jax.planning import topologies
from taskmoe_jax.planning.topologies import CHIPS, Topology, slices_of

# As devices of topologies call themselves (libtpu 0.0.42).
KINDS = {
  "v2": "TPU v2",
  "v3": "TPU v3",
  "v4": "TPU v4",
  "v5e": "TPU v5 lite",
  "v5p": "TPU v5",
  "v6e": "TPU v6 lite",
  "tpu7x": "TPU7x",
}


@pytest.mark.parametrize(
  ("name", "slices", "message"),
  [
    ("v5p", 1, "'v5p' is not a topology: write a kind and its chips"),
    ("v5p-128", 1, "'v5p-128' is not a topology"),
    (
      "v5:2x2",
      1,
      r"unknown TPU 'v5': accepted are v2, v3, v4, v5e, v5p, v6e, tpu7x \(did"
      r" you mean 'v5p'\?\)\. Set --topology\.",
    ),
    ("v5p:2x2x1", 0, "slices=0 is not at least 1. Set --slices.slices."),
  ],
)
def test_no_such_topology(name, slices, message):
  with pytest.raises(TaskMoeError, match=message):
    Topology(name, slices)


def test_without_the_compiler(monkeypatch):
  def missing(**_):
    raise RuntimeError("JAX TPU support not installed; cannot generate")

  monkeypatch.setattr(topologies.topologies, "get_topology_desc", missing)
  with pytest.raises(TaskMoeError) as error:
    _ = Topology("v3:2x2").devices
  assert str(error.value) == (
    "the TPU compiler is missing: libtpu is not installed (JAX TPU support not"
    " installed; cannot generate). Install it with pip install"
    " 'taskmoe-jax[tpu]'; no TPU is needed."
  )


def test_a_shape_that_the_compiler_does_not_know(monkeypatch):
  def refused(**_):
    raise jax.errors.JaxRuntimeError(
      'INVALID_ARGUMENT: Topology layout "v3:3x3" is not divisible\nmore'
    )

  monkeypatch.setattr(topologies.topologies, "get_topology_desc", refused)
  with pytest.raises(TaskMoeError) as error:
    _ = Topology("v3:3x3").devices
  assert str(error.value) == (
    "the TPU compiler does not know the topology 'v3:3x3' (Topology layout"
    ' "v3:3x3" is'
    " not divisible). Set --topology to a shape of the kind's documentation."
  )


@pytest.mark.parametrize("kind", CHIPS)
def test_the_clock_that_peak_and_matrix_units_imply(kind):
  """As published, in MHz, where it is: 700, 940, 1050, 1500 and 1750."""
  hertz = peak_flops(KINDS[kind]) / (2 * CHIPS[kind].products_per_cycle)
  published = {"v2": 700, "v3": 940, "v4": 1050, "v5e": 1500, "v5p": 1750}
  if kind in published:
    assert hertz / 1e6 == pytest.approx(published[kind], rel=0.02)
  assert 0.6e9 < hertz < 2.5e9


def test_devices_without_slices_are_one_slice():
  mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
  assert slices_of(mesh).tolist() == [0] * 8

import types

import jax
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh, tpu_grid


def mesh_shape(slices, data, expert, model):
  return MeshShape(slices=slices, data=data, expert=expert, model=model)


@pytest.mark.parametrize(
  ("shape", "num_devices", "sizes"),
  [
    ((1, -1, 1, 1), 1, (1, 1, 1, 1)),
    ((1, -1, 1, 1), 8, (1, 8, 1, 1)),
    ((1, -1, 2, 3), 24, (1, 4, 2, 3)),
    ((2, 5, -1, 2), 60, (2, 5, 3, 2)),
    ((3, 2, 3, -1), 90, (3, 2, 3, 5)),
    ((1, 2, 3, -1), 6, (1, 2, 3, 1)),
    ((-1, 2, 3, 1), 30, (5, 2, 3, 1)),
    ((5, 4, 3, 2), 120, (5, 4, 3, 2)),
  ],
)
def test_sizes(shape, num_devices, sizes):
  assert mesh_shape(*shape).sizes(num_devices) == sizes


def test_all_devices_are_data_unless_said():
  assert MeshShape().sizes(8) == (1, 8, 1, 1)


@pytest.mark.parametrize(
  "shape",
  [
    (1, 4, 1, 1),  # too few
    (1, 8, 2, 1),  # too many
    (2, 8, 1, 1),
    (1, -1, 3, 1),  # does not divide
    (3, -1, 1, 1),
    (1, -1, 16, 1),
    (1, -1, -1, 1),  # two of them
    (-1, -1, 1, 1),
    (1, -1, 0, 1),
    (0, -1, 1, 1),
    (1, 8, 1, 0),
    (1, -2, 4, 1),
    (1, -8, -1, 1),
  ],
)
def test_sizes_that_do_not_fill_the_devices(shape):
  with pytest.raises(TaskMoeError) as error:
    mesh_shape(*shape).sizes(8)
  slices, data, expert, model = shape
  assert str(error.value) == (
    f"a mesh of slices={slices}, data={data}, expert={expert}, model={model}"
    " does not fill 8 devices: the sizes must multiply to 8, and one of them"
    " may be -1. Set MeshShape.slices, MeshShape.data, MeshShape.expert,"
    " MeshShape.model."
  )


def test_make_mesh():
  mesh = make_mesh(MeshShape(data=2, expert=-1, model=1))
  assert mesh.axis_names == ("slice", "data", "expert", "model")
  assert dict(mesh.shape) == {"slice": 1, "data": 2, "expert": 4, "model": 1}
  ids = [[[[0], [1], [2], [3]], [[4], [5], [6], [7]]]]
  np.testing.assert_array_equal(mesh.device_ids, ids)


def test_make_mesh_of_some_devices():
  mesh = make_mesh(MeshShape(model=3), jax.devices()[2:8])
  assert dict(mesh.shape) == {"slice": 1, "data": 2, "expert": 1, "model": 3}
  np.testing.assert_array_equal(mesh.device_ids, [[[[2, 3, 4]], [[5, 6, 7]]]])


def test_a_slice_is_a_run_of_devices():
  mesh = make_mesh(MeshShape(slices=2, expert=2))
  ids = [[[[0], [1]], [[2], [3]]], [[[4], [5]], [[6], [7]]]]
  np.testing.assert_array_equal(mesh.device_ids, ids)


@pytest.mark.parametrize("sizes", [(1, 8, 2, 1), (1, 2, 8, 1), (1, 2, 4, 2)])
def test_axes_that_are_no_product_of_sides(sizes):
  """Sixteen chips, four by four: a side is split between two axes."""
  chips = [
    types.SimpleNamespace(
      id=4 * x + y,
      platform="tpu",
      device_kind="TPU v4",
      process_index=0,
      coords=(x, y, 0),
      core_on_chip=0,
    )
    for x in range(4)
    for y in range(4)
  ]
  grid = tpu_grid(sizes, chips)
  assert grid.shape == sizes
  assert {chip.id for chip in grid.flat} == set(range(16))
  # Two along an axis are in one row or column, so on one ring.
  for axis in np.flatnonzero(np.array(sizes) == 2):
    for pair in np.moveaxis(grid, axis, -1).reshape(-1, 2):
      (x, y, _), (u, v, _) = (chip.coords for chip in pair)
      assert (x == u) != (y == v)


def tpus(num_slices):
  """What JAX says of two v4 chips a slice, listed in no order."""
  return [
    types.SimpleNamespace(
      id=2 * part + x,
      platform="tpu",
      device_kind="TPU v4",
      process_index=part,
      slice_index=part,
      coords=(x, 0, 0),
      core_on_chip=0,
    )
    for x in (1, 0)
    for part in reversed(range(num_slices))
  ]


def test_slices_of_tpus_are_slices_of_the_mesh():
  grid = tpu_grid((3, 2, 1, 1), tpus(3))
  assert grid.shape == (3, 2, 1, 1)
  for number, part in enumerate(grid):
    assert {device.slice_index for device in part.flat} == {number}
  # One slice of TPUs may stand for several, to try them out.
  assert tpu_grid((2, 1, 1, 1), tpus(1)).shape == (2, 1, 1, 1)


def test_other_slices_than_the_hardware_has():
  with pytest.raises(
    TaskMoeError,
    match=r"slices=1, but these 6 devices are 3 slices of TPUs\. Set"
    r" MeshShape\.slices to 3\.",
  ):
    tpu_grid((1, 6, 1, 1), tpus(3))

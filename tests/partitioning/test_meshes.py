import jax
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh


@pytest.mark.parametrize(
  ("shape", "num_devices", "sizes"),
  [
    ((-1, 1, 1), 1, (1, 1, 1)),
    ((-1, 1, 1), 8, (8, 1, 1)),
    ((-1, 2, 3), 24, (4, 2, 3)),
    ((5, -1, 2), 30, (5, 3, 2)),
    ((2, 3, -1), 30, (2, 3, 5)),
    ((2, 3, -1), 6, (2, 3, 1)),
    ((4, 3, 2), 24, (4, 3, 2)),
  ],
)
def test_sizes(shape, num_devices, sizes):
  data, expert, model = shape
  shape = MeshShape(data=data, expert=expert, model=model)
  assert shape.sizes(num_devices) == sizes


def test_all_devices_are_data_unless_said():
  assert MeshShape().sizes(8) == (8, 1, 1)


@pytest.mark.parametrize(
  "shape",
  [
    (4, 1, 1),  # too few
    (8, 2, 1),  # too many
    (-1, 3, 1),  # does not divide
    (-1, 16, 1),
    (-1, -1, 1),  # two of them
    (-1, 0, 1),
    (8, 1, 0),
    (-2, 4, 1),
    (-8, -1, 1),
  ],
)
def test_sizes_that_do_not_fill_the_devices(shape):
  data, expert, model = shape
  with pytest.raises(TaskMoeError) as error:
    MeshShape(data=data, expert=expert, model=model).sizes(8)
  assert str(error.value) == (
    f"a mesh of data={data}, expert={expert}, model={model} does not fill 8"
    " devices: the sizes must multiply to 8, and one of them may be -1. Set"
    " MeshShape.data, MeshShape.expert, MeshShape.model."
  )


def test_make_mesh():
  mesh = make_mesh(MeshShape(data=2, expert=-1, model=1))
  assert mesh.axis_names == ("data", "expert", "model")
  assert dict(mesh.shape) == {"data": 2, "expert": 4, "model": 1}
  ids = [[[0], [1], [2], [3]], [[4], [5], [6], [7]]]
  np.testing.assert_array_equal(mesh.device_ids, ids)


def test_make_mesh_of_some_devices():
  mesh = make_mesh(MeshShape(model=3), jax.devices()[2:8])
  assert dict(mesh.shape) == {"data": 2, "expert": 1, "model": 3}
  np.testing.assert_array_equal(mesh.device_ids, [[[2, 3, 4]], [[5, 6, 7]]])

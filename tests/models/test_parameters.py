"""Names, shapes and logical axes of parameters: checkpoints depend on them.

`UPDATE_GOLDEN=1 make test TESTS=tests/models` rewrites the files.
"""

import os
import pathlib

import jax
import pytest

from taskmoe_jax import axes

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"


def listing(boxed):
  """One line for each parameter: path, shape, logical axes."""
  leaves = jax.tree_util.tree_leaves_with_path(
    boxed, is_leaf=lambda leaf: hasattr(leaf, "names")
  )
  lines = []
  for path, leaf in leaves:
    name = "/".join(key.key for key in path)
    sizes = " ".join(
      f"{axis}={size}"
      for axis, size in zip(leaf.names, leaf.value.shape, strict=True)
    )
    lines.append(f"{name}: {sizes}\n")
  return "".join(sorted(lines))


@pytest.mark.parametrize(
  ("name", "choices"),
  [
    (
      "parameters_gated_token_task",
      {"encoder": "token", "decoder": "task", "activation": "gated_gelu"},
    ),
    (
      "parameters_dense_static_three",
      {"encoder": None, "decoder": "static", "embeddings": "three"},
    ),
  ],
)
def test_parameters(name, choices, tiny_config, abstract_params):
  found = listing(abstract_params(tiny_config(**choices)))
  path = GOLDEN / f"{name}.txt"
  if os.environ.get("UPDATE_GOLDEN"):
    path.write_text(found)
  assert found == path.read_text()


def test_every_axis_is_that_of_a_parameter(tiny_config, abstract_params):
  """And all of them occur, so that every rule is of use."""
  boxed = abstract_params(tiny_config("token", "task"))
  found = set()
  for leaf in jax.tree.leaves(boxed, is_leaf=lambda x: hasattr(x, "names")):
    found |= set(leaf.names)
    assert leaf.value.dtype == "float32"
  # None: the width of experts that are fetched, which is whole on a device.
  assert found - {None} == set(axes.PARAMETER_AXES)

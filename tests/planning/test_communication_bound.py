"""The communication lower bound by hand.

The small recipe: 16 rows of 24 source and 20 target tokens in float32, D 16,
two heads of 6, V 296; a stack has one block of a dense layer of width 24 and
one of 4 experts of width 32, K 2. The encoder routes tokens, the decoder three
tasks.
"""

import pytest

from taskmoe_jax.planning.communication_bound import (
  communication_lower_bound,
  gradient_bytes,
)

ITEM = 4
# One table; attention of two layers and three times as many; dense layers.
ATTENTION = 4 * 16 * 12
DENSE = 2 * 16 * 24
NORMS = 16 * (2 * 2 + 1 + 2 * 3 + 1)
BIASES = 2 * 32 * 2
TASKS = 3 * 16
BODY = 296 * 16 + (2 + 4) * ATTENTION + 2 * DENSE + NORMS + BIASES + TASKS
ROUTERS = 2 * 16 * 4
EXPERTS = 4 * 2 * 16 * 32


@pytest.mark.parametrize(
  ("data", "expert", "expected"),
  [
    (8, 1, {("all-reduce", ("data",)): BODY + ROUTERS + 2 * EXPERTS}),
    (
      2,
      4,
      {
        ("all-reduce", ("data", "expert")): BODY,
        # A quarter of both stacks' experts, and of the routers' columns.
        ("all-reduce", ("data",)): (2 * EXPERTS + ROUTERS) // 4,
        # Two rows a device: K of their tokens four times, and one group whose K
        # experts come and go.
        ("all-to-all", ("expert",)): 4 * 2 * 2 * 24 * 16 + 4 * 2 * 16 * 32,
      },
    ),
  ],
)
def test_rows_and_experts(data, expert, expected, planned):
  _, _, plan = planned(
    f"meshes.MeshShape.data={data}", f"meshes.MeshShape.expert={expert}"
  )
  plan = plan()
  assert communication_lower_bound(plan) == {
    key: elements * ITEM for key, elements in expected.items()
  }
  assert gradient_bytes(plan) == ITEM * sum(
    elements for (kind, _), elements in expected.items() if "reduce" in kind
  )


def test_width(planned):
  """Rows are over four devices: four rows each."""
  _, _, plan = planned("meshes.MeshShape.data=4", "meshes.MeshShape.model=2")
  encoder = 2 * 2 * 2 + 1
  decoder = 2 * 3 * 2 + 2
  found = communication_lower_bound(plan())
  assert found["all-reduce", ("model",)] == (
    4 * 16 * (24 * encoder + 20 * decoder) * ITEM
  )
  assert ("all-to-all", ("expert",)) not in found


def test_fsdp(planned):
  """What is split over `data` is gathered twice, and its gradient scattered."""
  _, _, plan = planned(
    "meshes.MeshShape.data=4", "meshes.MeshShape.expert=2", "FSDP=True"
  )
  found = communication_lower_bound(plan())
  gathered = found["all-gather", ("data",)]
  assert gathered == 2 * found["reduce-scatter", ("data",)]
  # All but norms and biases, and the decoder's experts, which are fetched.
  assert 0.5 * BODY < found["reduce-scatter", ("data",)] / ITEM < BODY + EXPERTS
  assert ("all-to-all", ("data", "expert")) in found


def test_gated_experts_have_a_third_matrix(planned):
  mesh = "meshes.MeshShape.data=2", "meshes.MeshShape.expert=4"
  routed = "ENCODER=task", "config.ModelConfig.activation=gated_gelu"
  _, _, plan = planned(*mesh, *routed)
  fetched = 2 * 4 * 2 * 16 * 32 * 3 // 2
  found = communication_lower_bound(plan())
  assert found["all-to-all", ("expert",)] == fetched * ITEM

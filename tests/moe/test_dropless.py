"""Sorting by expert, and who finds a place in a pool, by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.dropless import Dropless, sort_by_expert


def test_choices_in_the_order_of_their_experts():
  """E = 3, and 3 itself is no choice: its place is past the end."""
  places, counts = sort_by_expert(jnp.array([2, 0, 3, 2, 0]), 3)
  np.testing.assert_array_equal(places, [2, 0, 5, 3, 1])
  np.testing.assert_array_equal(counts, [2, 0, 2])


@pytest.mark.parametrize(
  ("factor", "kept", "pool"),
  [
    (None, [1, 1, 1, 0, 1, 1, 1, 1], 8),
    (1.0, [1, 1, 1, 0, 1, 0, 0, 0], 4),
    (1.5, [1, 1, 1, 0, 1, 1, 1, 0], 6),
    (0.5, [1, 1, 0, 0, 0, 0, 0, 0], 2),
  ],
)
def test_the_earlier_choices_find_a_place_whichever_expert_they_want(
  factor, kept, pool
):
  """Two devices of two experts: all eight choices, but one that is none, are
  for the first device, and its second expert is wanted first."""
  experts = jnp.array([1, 0, 1, 4, 0, 1, 0, 1])
  found, places = Dropless(factor)._kept(experts, 2, 4)
  assert places == pool
  np.testing.assert_array_equal(found, np.array(kept, bool))

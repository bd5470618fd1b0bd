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
  ("engine", "turns", "pool"),
  [
    (Dropless(None), [0, 0, 0, 0, 0, 0, 0], 8),
    (Dropless(1.0), [0, 0, 0, 0, 1, 1, 1], 4),
    (Dropless(1.5), [0, 0, 0, 0, 0, 0, 1], 6),
    (Dropless(0.5), [0, 0, 1, 1, 2, 2, 3], 2),
    (Dropless(0.5, spare_places=1), [0, 0, 0, 1, 1, 1, 2], 3),
    (Dropless(1.5, spare_places=9), [0, 0, 0, 0, 0, 0, 0], 8),
  ],
)
def test_the_earlier_choices_find_a_place_whichever_expert_they_want(
  engine, turns, pool
):
  """Two devices of two experts: all eight choices, but one that is none, are
  for the first device, and its second expert is wanted first. What has a turn
  after the first is dropped, or waits for it."""
  experts = jnp.array([1, 0, 1, 4, 0, 1, 0, 1])
  found, places = engine._turns(experts, 2, 4)
  assert places == pool
  np.testing.assert_array_equal(np.delete(found, 3), turns)

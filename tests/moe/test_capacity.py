"""Slots, capacity, priorities and padding, by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.capacity import Capacity, assign_slots
from taskmoe_jax.moe.routing import Routing


@pytest.mark.slow
def test_first_choices_before_second_and_earlier_tokens_before_later():
  """The example of the docstring, and one in which padding stands between.

  E = 2, C = 2, two groups; slots 0 1 are of expert 0, 2 3 of expert 1, and 4 is
  none. In the second group expert 2 = E marks padding.
  """
  experts = jnp.array([[[0, 0, 0], [1, 1, 0]], [[1, 2, 1], [0, 2, 0]]])
  slots = assign_slots(experts, num_experts=2, capacity=2)
  np.testing.assert_array_equal(
    slots, [[[0, 1, 4], [2, 3, 4]], [[2, 4, 3], [0, 4, 1]]]
  )


def test_second_choices_queue_behind_all_first_ones():
  """E = 3, C = 1: token 0's second choice, 1, was token 2's first."""
  experts = jnp.array([[[0, 0, 1], [1, 2, 2]]])
  slots = assign_slots(experts, num_experts=3, capacity=1)
  np.testing.assert_array_equal(slots, [[[0, 3, 1], [3, 2, 3]]])


@pytest.mark.slow
def test_tokens_of_a_higher_priority_claim_places_first():
  """E = 2, C = 1: token 2 goes before token 1, and both before token 0."""
  experts = jnp.array([[[0, 0, 1], [1, 1, 0]]])
  slots = assign_slots(
    experts, num_experts=2, capacity=1, priority=jnp.array([[0.1, 0.2, 0.3]])
  )
  np.testing.assert_array_equal(slots, [[[2, 0, 1], [2, 2, 2]]])


def identity_experts():
  """Expert e multiplies positive tokens by 10^e."""
  wi = jnp.tile(jnp.eye(2)[None], (3, 1, 1))
  return FeedForwardWeights(
    (wi,), wi * jnp.array([1.0, 10, 100])[:, None, None]
  )


def run(engine, x, experts, gates, valid):
  """Compiled, which is faster than to run it once as it is."""
  gates = jnp.asarray(gates, jnp.float32)
  route = Routing(jnp.asarray(experts), gates)
  # Two features, so that none is mistaken for the only one.
  tokens = jnp.tile(jnp.asarray(x, jnp.float32)[..., None], (1, 1, 2))
  valid = jnp.asarray(valid, bool)
  weights = identity_experts()
  done = jax.jit(engine, static_argnums=4)(
    tokens, route, valid, weights, Activation.RELU
  )
  np.testing.assert_array_equal(done.y[..., 0], done.y[..., 1])
  wanted = jnp.broadcast_to(valid[..., None], done.kept.shape)
  dropped = jnp.sum(wanted & ~done.kept) / jnp.maximum(wanted.sum(), 1)
  return done.y[..., 0], dropped


@pytest.mark.slow
def test_overflow_by_hand():
  """One group of four tokens, ceil(1 · 4 / 3 · 1) = 2 places an expert.

  Expert 0 takes tokens 1 and 2 and drops token 4; expert 2 takes token 3.
  """
  y, dropped = run(
    Capacity(1.0, 4),
    [[1, 2], [3, 4]],
    jnp.array([[[0], [0]], [[2], [0]]]),
    jnp.array([[[0.5], [0.5]], [[0.25], [0.5]]]),
    jnp.ones((2, 2)),
  )
  np.testing.assert_allclose(y, [[0.5, 1], [75, 0]], rtol=1e-6)
  assert dropped == pytest.approx(0.25)


def test_padding_takes_no_capacity():
  """The same with padding instead of token 1: now token 4 has a place."""
  y, dropped = run(
    Capacity(1.0, 4),
    [[1, 2], [3, 4]],
    jnp.array([[[0], [0]], [[2], [0]]]),
    jnp.array([[[0.5], [0.5]], [[0.25], [0.5]]]),
    [[0, 1], [1, 1]],
  )
  np.testing.assert_allclose(y, [[0, 1], [75, 2]], rtol=1e-6)
  assert dropped == 0


@pytest.mark.parametrize(
  ("group_size", "rows"), [(1, 1), (9, 1), (10, 2), (29, 3)]
)
def test_groups_are_whole_rows_and_divide_the_batch(group_size, rows):
  """Six rows of five want expert 0, with ceil(tokens / 3) places a group."""
  _, dropped = run(
    Capacity(1.0, group_size),
    np.ones((6, 5)),
    np.zeros((6, 5, 1), np.int32),
    np.ones((6, 5, 1)),
    np.ones((6, 5)),
  )
  places = -(-rows * 5 // 3)
  assert dropped == pytest.approx(1 - places / (rows * 5))


@pytest.mark.slow
def test_a_batch_of_padding_drops_nothing():
  y, dropped = run(
    Capacity(1.0, 9),
    np.ones((2, 3)),
    np.zeros((2, 3, 1), np.int32),
    np.ones((2, 3, 1)),
    np.zeros((2, 3)),
  )
  assert dropped == 0
  assert not y.any()

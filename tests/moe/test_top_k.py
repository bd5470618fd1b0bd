"""The largest values, against NumPy and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.top_k import pick, top_k


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_the_largest_come_first(k):
  values = np.random.default_rng(k).normal(size=(3, 4, 7)).astype(np.float32)
  expected = np.argsort(-values, axis=-1)[..., :k]
  np.testing.assert_array_equal(top_k(jnp.asarray(values), k), expected)


@pytest.mark.parametrize("k", [2, 5])
def test_ties_go_to_the_lower_index(k):
  """Also those of the infinities with which experts are ruled out or in."""
  values = jnp.array(
    [[1.0, 3, 3, 1, -jnp.inf, -jnp.inf], [jnp.inf, 0, 0, 0, 0, 0]]
  )
  expected = np.array([[1, 2, 0, 3, 4], [0, 1, 2, 3, 4]])[:, :k]
  np.testing.assert_array_equal(top_k(values, k), expected)


def test_picking_and_its_gradient():
  values = jnp.array([[0.5, 0.25, 2.0], [4.0, 8.0, 16.0]])
  indices = jnp.array([[2, 0], [1, 1]])
  picked, pull = jax.vjp(lambda values: pick(values, indices), values)
  np.testing.assert_array_equal(picked, [[2.0, 0.5], [8.0, 8.0]])
  (gradient,) = pull(jnp.array([[1.0, 3.0], [5.0, 7.0]]))
  np.testing.assert_array_equal(gradient, [[3, 0, 1], [0, 12, 0]])

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.decoding.top_k import blockwise_top_k, mass_threshold


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 3, 8])
@pytest.mark.parametrize("size", [5, 640, 1500])
def test_blockwise_top_k_is_top_k(size, k):
  """Of values many of which are equal, so that order among them shows."""
  rng = np.random.default_rng(0)
  values = jnp.asarray(rng.integers(0, 40, size=(3, 2, size)), jnp.float32)
  found, indices = blockwise_top_k(values, k)
  expected, expected_indices = jax.lax.top_k(values, min(k, size))
  known = expected.shape[-1]
  np.testing.assert_array_equal(found[..., :known], expected)
  np.testing.assert_array_equal(indices[..., :known], expected_indices)
  assert np.all(np.isneginf(found[..., known:]))


def test_thresholds_by_hand():
  values = jnp.array([[0.1, 0.4, 0.2, 0.3], [0.7, 0.0, 0.0, 0.3]], jnp.float32)

  def threshold(masses, wanted):
    return mass_threshold(values, masses, wanted).tolist()

  ones = jnp.ones_like(values)
  np.testing.assert_allclose(threshold(ones, 1.0), [0.4, 0.7])
  np.testing.assert_allclose(threshold(ones, 3.0), [0.2, 0.0])
  np.testing.assert_allclose(threshold(values, 0.65), [0.3, 0.7])
  np.testing.assert_allclose(threshold(values, 0.75), [0.2, 0.3])

import jax.numpy as jnp
import numpy as np

from taskmoe_jax.layers.norms import RMSNorm


def test_by_hand():
  """Root mean squares: sqrt((9 + 16 + 0 + 0) / 4) = 2.5; sqrt(4) = 2."""
  x = jnp.array([[[3.0, -4.0, 0.0, 0.0], [2.0, 2.0, -2.0, 2.0]]])
  scale = jnp.array([1.0, 2.0, 3.0, -1.0])
  y = RMSNorm().apply({"params": {"scale": scale}}, x)
  expected = [[[1.2, -3.2, 0.0, 0.0], [1.0, 2.0, -3.0, -1.0]]]
  np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_epsilon():
  """Mean square 1e-6, plus 1e-6, gives 1e-3 / sqrt(2e-6); zeros stay zeros."""
  x = jnp.array([[1e-3, -1e-3, 1e-3], [0.0, 0.0, 0.0]])
  y = RMSNorm().apply({"params": {"scale": jnp.ones(3)}}, x)
  root = 0.5**0.5
  np.testing.assert_allclose(y, [[root, -root, root], [0, 0, 0]], rtol=1e-6)


def test_bfloat16_is_normed_in_float32():
  x = jnp.full((2, 300), 3.0, jnp.bfloat16)
  y = RMSNorm().apply({"params": {"scale": jnp.full(300, 5.0)}}, x)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_array_equal(y.astype(np.float32), np.full((2, 300), 5.0))

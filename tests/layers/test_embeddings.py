import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.layers.embeddings import TokenEmbedding

# V = 3, D = 4.
TABLE = jnp.array([[1.0, 2, 3, 4], [0, -1, 0, 1], [5, 0, 0, -5]])


def apply(*args, dtype="float32", **kwargs):
  module = TokenEmbedding(3, 4, jnp.dtype(dtype))
  return module.apply({"params": {"table": TABLE}}, *args, **kwargs)


def test_vectors_are_not_scaled():
  x = apply(jnp.array([[2, 0], [1, 1]]))
  expected = [[[5, 0, 0, -5], [1, 2, 3, 4]], [[0, -1, 0, 1], [0, -1, 0, 1]]]
  np.testing.assert_array_equal(x, expected)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_are_scaled_by_the_root_of_the_width(dtype):
  """Products with (2, 0, 0, 6) are 26, 6, -20; D^-0.5 is a half."""
  x = jnp.array([[[2.0, 0, 0, 6]]], dtype)
  logits = apply(x, dtype=dtype, method="logits")
  assert logits.dtype == jnp.float32
  np.testing.assert_array_equal(logits, [[[13.0, 3.0, -10.0]]])


def test_the_table_has_unit_variance():
  module = TokenEmbedding(211, 37, jnp.dtype("float32"))
  variables = module.init(jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
  table = nn.unbox(variables)["params"]["table"]
  # 7807 numbers: their deviation is within 1 % of the true one at 1 sigma.
  np.testing.assert_allclose(table.std(), 1.0, rtol=0.03)


def test_compute_dtype():
  assert apply(jnp.array([[0]]), dtype="bfloat16").dtype == jnp.bfloat16


def test_gradients_of_a_frequent_token_are_summed_in_float32():
  """In bfloat16 a sum of ones ends at 256: the next one is rounded off."""
  module = TokenEmbedding(5, 3, jnp.dtype("bfloat16"))
  tokens = jnp.full((1, 1000), 2)
  params = {"table": jnp.ones((5, 3))}

  def total(params):
    return module.apply({"params": params}, tokens).astype(jnp.float32).sum()

  gradient = jax.grad(total)(params)["table"]
  np.testing.assert_array_equal(gradient[2], [1000.0] * 3)

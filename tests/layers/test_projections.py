import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.layers.projections import matrix_product


@pytest.mark.slow
@pytest.mark.parametrize(
  ("inner", "shapes", "einsum"),
  [
    (1, ((3, 5, 7), (7, 4, 2)), "btd,dnh->btnh"),
    (2, ((3, 5, 4, 2), (4, 2, 7)), "btnh,nhd->btd"),
  ],
)
def test_it_is_an_einsum(inner, shapes, einsum):
  keys = jax.random.split(jax.random.key(0), 3)
  x, w = map(jax.random.normal, keys, shapes)
  expected, backward = jax.vjp(lambda x, w: jnp.einsum(einsum, x, w), x, w)
  found, found_backward = jax.vjp(
    lambda x, w: matrix_product(x, w, inner=inner), x, w
  )
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  gradient = jax.random.normal(keys[2], expected.shape)
  for ours, theirs in zip(
    found_backward(gradient), backward(gradient), strict=True
  ):
    # Sums of 8 to 15 terms of size 1.
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_every_product_sums_over_one_axis():
  """Of gradients too; of two axes, XLA lays activations out anew."""
  x, w, y = jnp.ones((3, 5, 7)), jnp.ones((7, 11)), jnp.ones((3, 5, 11))

  def summed(product):
    program = jax.jit(lambda x, w, y: jax.vjp(product, x, w)[1](y))
    text = program.lower(x, w, y).as_text()
    return re.findall(r"contracting_dims = \[(.*?)\]", text)

  assert "0, 1" in summed(lambda x, w: jnp.einsum("bld,df->blf", x, w))
  ours = summed(matrix_product)
  assert len(ours) == 2
  assert all(len(axes.split(",")) == 1 for axes in ours), ours


def test_it_sums_in_another_dtype():
  x = jnp.full((2, 300), 1, jnp.bfloat16)
  y = matrix_product(x, x.T, dtype=jnp.float32)
  assert y.dtype == jnp.float32
  np.testing.assert_array_equal(y, np.full((2, 2), 300.0))

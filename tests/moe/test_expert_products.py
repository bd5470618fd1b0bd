"""Products with experts' matrices against loops, of few rows and of many."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.expert_products import (
  expert_product,
  matrix_gradient,
  rows_gradient,
)

# On either side of where the gradients are computed in another way.
FEW, MANY = 7, 65


def drawn(*shape):
  """All positive: no sum is so much smaller than its terms as to be inexact."""
  generator = np.random.default_rng(sum(shape))
  return generator.uniform(0.5, 1.5, shape).astype(np.float32)


@pytest.mark.parametrize("rows", [FEW, MANY])
@pytest.mark.parametrize("experts", [(), (3,)], ids=["one", "three"])
def test_gradients_are_those_of_a_product(rows, experts):
  x, w = drawn(*experts, rows, 5), drawn(*experts, 5, 4)
  dy = drawn(*experts, rows, 4)
  y, vjp = jax.vjp(expert_product, jnp.asarray(x), jnp.asarray(w))
  dx, dw = vjp(jnp.asarray(dy))
  for index in np.ndindex(experts):
    np.testing.assert_allclose(y[index], x[index] @ w[index], rtol=1e-5)
    np.testing.assert_allclose(
      dx[index], dy[index] @ w[index].T, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
      dw[index], x[index].T @ dy[index], rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("rows", [FEW, MANY])
def test_matrices_sum_their_gradients_in_float32(rows):
  x = jnp.ones((rows, 2), jnp.bfloat16)
  dy = jnp.full((rows, 3), 1 + 2**-7, jnp.bfloat16)
  found = matrix_gradient(x, dy)
  assert found.dtype == jnp.float32
  np.testing.assert_array_equal(found, np.full((2, 3), rows * (1 + 2**-7)))
  assert rows_gradient(dy, jnp.ones((2, 3), jnp.bfloat16)).dtype == x.dtype


@pytest.mark.parametrize(("rows", "on_the_left"), [(FEW, True), (MANY, False)])
def test_the_matrix_stands_on_the_left_for_few_rows(rows, on_the_left):
  """Otherwise the product would be of rows by the matrix, laid out anew."""
  shapes = [
    jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((rows, 4), (5, 4))
  ]
  text = jax.jit(rows_gradient).lower(*shapes).as_text()
  (product,) = [line for line in text.splitlines() if "dot_general" in line]
  operands = product.split(" : (")[1].split(") ->")[0]
  assert operands.startswith("tensor<5x4xf32>") == on_the_left

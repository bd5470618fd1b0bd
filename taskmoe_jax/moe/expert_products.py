"""The product of rows with an expert's matrix, and its gradients.

Experts see few rows each. XLA's product on a CPU lays out its second operand
anew, which costs the same whatever the number of rows: for 32 rows and a matrix
of 256 x 1024 as much as half of the product. So, if rows are few, the matrix
stands on the left in the gradient of the rows; and in the gradient of the
matrix the rows are transposed by themselves, since the kernel that XLA takes
for a transposed operand is a slower one. On 2 cores 32 experts with 32 rows
each, two matrices, forward and backward: 42 ms for 55. From 128 rows on it
makes no difference.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from taskmoe_jax.partitioning.rules import platform

# No more than this are few.
_FEW_ROWS = 64


@jax.custom_vjp
def expert_product(
  x: Float[Array, "*e rows m"], w: Float[Array, "*e m n"]
) -> Float[Array, "*e rows n"]:
  """`x @ w`, of one expert or of several at once."""
  return x @ w


def rows_gradient(
  dy: Float[Array, "*e rows n"], w: Float[Array, "*e m n"]
) -> Float[Array, "*e rows m"]:
  """`dy @ w.T`, the gradient of a product by its rows."""
  if not _few(dy):
    return jnp.einsum("...rn,...mn->...rm", dy, w)
  return _transposed(jnp.einsum("...mn,...rn->...mr", w, dy))


def matrix_gradient(
  x: Float[Array, "*e rows m"], dy: Float[Array, "*e rows n"]
) -> Float[Array, "*e m n"]:
  """`x.T @ dy` in float32, the gradient of a product by its matrix."""
  if not _few(dy):
    return jnp.einsum(
      "...rm,...rn->...mn", x, dy, preferred_element_type=jnp.float32
    )
  return jnp.matmul(_transposed(x), dy, preferred_element_type=jnp.float32)


def _few(rows: Float[Array, "*e rows n"]) -> bool:
  return platform() == "cpu" and rows.shape[-2] <= _FEW_ROWS


def _transposed(x: jax.Array) -> jax.Array:
  # Otherwise XLA makes the transposition part of the product.
  return jax.lax.optimization_barrier(x.swapaxes(-1, -2))


def _forward(x, w):
  return x @ w, (x, w)


def _backward(residuals, dy):
  x, w = residuals
  return rows_gradient(dy, w), matrix_gradient(x, dy).astype(w.dtype)


expert_product.defvjp(_forward, _backward)

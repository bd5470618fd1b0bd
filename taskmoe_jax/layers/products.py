"""Products of activations with weights, each as one of two plain matrices."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def matrix_product(
  x: Float[Array, "*rows_and_inner"],
  weight: Float[Array, "*inner_and_outer"],
  *,
  inner: int = 1,
  dtype: Any = None,
) -> Float[Array, "*rows_and_outer"]:
  """Sums over the last axes of `x` and the first of `weight`.

  What an `einsum` would compute. But the gradient of the weight sums over all
  rows, and rows that have several axes, as `[B, L]`, XLA lays out anew first:
  on a CPU that took longer than the product. Rows with one axis it takes as
  they are, and to give them one costs nothing.

  Args:
    x: `[*rows, *inner]`.
    weight: `[*inner, *outer]`.
    inner: How many axes to sum over.
    dtype: To sum in, and of what is returned; that of `x` unless given.
  """
  rows, outer = x.shape[: x.ndim - inner], weight.shape[inner:]
  size = math.prod(weight.shape[:inner])
  product = jnp.einsum(
    "rm,mn->rn",
    x.reshape(-1, size),
    weight.reshape(size, -1),
    preferred_element_type=dtype,
  )
  return product.reshape(*rows, *outer)

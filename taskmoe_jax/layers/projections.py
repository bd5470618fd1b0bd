"""Projections: products of activations with weights, and initializers."""

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float


def scaled_normal(
  scale: float, logical_axes: tuple[str | None, ...]
) -> Callable:
  """Normal initializer with standard deviation `scale`, boxed with its axes.

  T5 sets the deviation by hand (fan-in^-0.5, with d_kv folded into queries),
  since attention divides by nothing; a library's fan-in rule would also count
  the `expert` and `layer` axes.
  """
  return with_axes(nn.initializers.normal(scale), logical_axes)


def with_axes(
  initializer: Callable, logical_axes: tuple[str | None, ...]
) -> Callable:
  """An initializer whose parameters are boxed with their logical axes.

  Flax says that it returns the box; inside a module `param` opens it.
  """
  return nn.with_logical_partitioning(initializer, logical_axes)


def matrix_product(
  x: Float[Array, "*rows_and_inner"],
  weight: Float[Array, "*inner_and_outer"],
  *,
  inner: int = 1,
  dtype: Any = None,
) -> Float[Array, "*rows_and_outer"]:
  """Sums over the last axes of `x` and the first of `weight`.

  The same as an `einsum`, as a product of two matrices: the gradient of the
  weight sums over all rows, and XLA first copies rows that have several axes,
  such as `[B, L]`, to another layout. On a CPU that took longer than the
  product. Reshaping them to one axis costs nothing.

  Args:
    x: `[*rows, *inner]`.
    weight: `[*inner, *outer]`.
    inner: How many axes to sum over.
    dtype: The dtype of the sum and of the result; that of `x` unless given.
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

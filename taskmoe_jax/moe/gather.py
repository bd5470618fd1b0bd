"""Moving rows by index, forward and backward."""

from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def invert(slots: Int[Array, "G n"], num_slots: int) -> Int[Array, "G m"]:
  """Which choice sits in each slot; n, one past the last, where none does."""
  groups, num_choices = slots.shape
  empty = jnp.full((groups, num_slots), num_choices, slots.dtype)
  order = jnp.arange(num_choices, dtype=slots.dtype)
  return jax.vmap(lambda e, s: e.at[s].set(order, mode="drop"))(empty, slots)


@jax.custom_vjp
def gather(
  x: Float[Array, "G n D"],
  sources: Int[Array, "G m"],
  targets: Int[Array, "G K n"],
) -> Float[Array, "G m D"]:
  """`y[i] = x[sources[i]]`, with zeros where the index is past the end.

  `targets` is the same relation read backwards: where each row of `x` went. It
  makes the gradient a gather as well; the scatter-add that JAX would derive is
  several times slower on every platform.
  """
  del targets
  return _take_padded(x, sources)


def _take_padded(x: jax.Array, index: jax.Array) -> jax.Array:
  return jnp.take_along_axis(
    x, index[:, :, None], axis=1, mode="fill", fill_value=0
  )


def _gather_forward(x, sources, targets):
  return _take_padded(x, sources), (targets,)


def _gather_backward(residuals, dy):
  (targets,) = residuals
  groups, num_selected, rows = targets.shape
  dx = _take_padded(dy, targets.reshape(groups, -1))
  dx = dx.reshape(groups, num_selected, rows, -1)
  # Slices, not `sum(1)`: a reduction over so few rows is slow on a CPU.
  return sum(dx[:, k] for k in range(num_selected)), None, None


gather.defvjp(_gather_forward, _gather_backward)


def weighted_sum(
  values: Float[Array, "G K n D"], weights: Float[Array, "G K n"]
) -> Float[Array, "G n D"]:
  """`sum_k weights_k · values_k`, in the dtype of the values.

  Slice by slice: what XLA makes of the product `gknd,gkn->gnd` is a good deal
  slower on a CPU.
  """
  scaled = values * weights[..., None].astype(values.dtype)
  return cast(Array, sum(scaled[:, k] for k in range(values.shape[1])))

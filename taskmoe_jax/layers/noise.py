"""Random numbers of training that depend on the row, not on its place.

Each row has its own key, made of the step's key and the row's number
in the whole batch. So a row gets the same noise on every mesh, and in a whole
batch or in any number of microbatches (t5x gives all microbatches one key, and
so repeats the noise of the first).
"""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

_ROWS: contextvars.ContextVar[jax.Array | None] = contextvars.ContextVar(
  "rows_at_hand", default=None
)


@contextlib.contextmanager
def rows_at_hand(numbers: Int[Array, "B"]) -> Iterator[None]:
  """Declares which rows of the batch the functions traced inside get.

  By default they get all rows, in order.
  """
  token = _ROWS.set(numbers)
  try:
    yield
  finally:
    _ROWS.reset(token)


def draw_by_row(
  draw: Callable, key: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """Draws an array whose first axis counts rows, each row from its own key.

  Args:
    draw: Such as `jax.random.uniform`; called with a key and a shape.
    key: The key of all rows.
    shape: `[B, ...]`, for the current rows.
  """
  rows = _ROWS.get()
  if rows is None:
    rows = jnp.arange(shape[0])
  assert rows.shape == shape[:1], (rows.shape, shape)
  keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
  return jax.vmap(lambda row_key: draw(row_key, shape[1:]))(keys)


class Dropout(nn.Module):
  """Zeroes a share of a row's features and scales up the others, in training.

  As in T5 (Mesh TensorFlow and t5x) all positions of a row lose the same ones;
  in attention, all queries lose the same positions. One number is drawn per
  feature, not per feature and position.
  """

  rate: float

  @nn.compact
  def __call__(
    self, x: Float[Array, "B *rest L D"], *, train: bool
  ) -> Float[Array, "B *rest L D"]:
    if not train or not self.rate:
      return x
    shape = (*x.shape[:-2], 1, x.shape[-1])
    bits = draw_by_row(jax.random.bits, self.make_rng("dropout"), shape)
    keep = bits >= jnp.uint32(round(self.rate * 2**32))
    return jnp.where(keep, x / (1 - self.rate), jnp.zeros_like(x))

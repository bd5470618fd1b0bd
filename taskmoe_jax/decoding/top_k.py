"""Top-k and top-p over a vocabulary, without sorting it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_BLOCK = 128
_MAX_PASSES = 16


def blockwise_top_k(
  values: Float[Array, "*b V"], k: int
) -> tuple[Float[Array, "*b k"], Int[Array, "*b k"]]:
  """The k largest values, largest first, and their indices.

  The same as `jax.lax.top_k`, which sorts all V. Here the values are cut into
  blocks. The k largest are in the k blocks whose maxima are largest, and only
  these are looked at. Ties go to the lower index, in blocks and inside them.
  """
  size = values.shape[-1]
  if size <= _BLOCK * k:
    return iterative_top_k(values, k)
  padding = -size % _BLOCK
  if padding:
    values = _padded(values, padding)
  blocks = values.reshape(*values.shape[:-1], -1, _BLOCK)
  _, best = iterative_top_k(jnp.max(blocks, axis=-1), k)
  best = jnp.sort(best, axis=-1)
  inside = jnp.take_along_axis(blocks, best[..., None], axis=-2)
  flat = inside.reshape(*inside.shape[:-2], -1)
  found, at = iterative_top_k(flat, k)
  block = jnp.take_along_axis(best, at // _BLOCK, axis=-1)
  return found, block * _BLOCK + at % _BLOCK


def iterative_top_k(
  values: Float[Array, "*b n"], k: int
) -> tuple[Float[Array, "*b k"], Int[Array, "*b k"]]:
  """The k largest values by k passes of argmax, for few values.

  If there are fewer than k values, the rest are -inf, at any index. For large k
  a sort is cheaper.
  """
  if k > _MAX_PASSES:
    missing = max(k - values.shape[-1], 0)
    found, indices = jax.lax.top_k(_padded(values, missing), k)
    return found, indices
  maxima, places = [], []
  for _ in range(k):
    index = jnp.argmax(values, axis=-1).astype(jnp.int32)
    maxima.append(jnp.max(values, axis=-1))
    places.append(index)
    taken = jax.nn.one_hot(index, values.shape[-1], dtype=bool)
    values = jnp.where(taken, -jnp.inf, values)
  return jnp.stack(maxima, axis=-1), jnp.stack(places, axis=-1)


def _padded(values: Float[Array, "*b n"], number: int) -> jax.Array:
  widths = [(0, 0)] * (values.ndim - 1) + [(0, number)]
  return jnp.pad(values, widths, constant_values=-jnp.inf)


def mass_threshold(
  values: Float[Array, "*b V"],
  masses: Float[Array, "*b V"],
  wanted: Float[Array, "*b"] | float,
) -> Float[Array, "*b"]:
  """The greatest threshold above which the masses sum to `wanted` or more.

  With masses of 1 it is the wanted-th largest value. Found by bisection over
  the bits of the values, which must not be negative: the bits of such numbers
  are ordered as the numbers are, so 31 sums find it exactly, and nothing is
  sorted.
  """
  bits = jax.lax.bitcast_convert_type(values, jnp.int32)
  low = jnp.zeros(values.shape[:-1], jnp.int32)

  def halve(i, low):
    middle = low | (jnp.int32(1) << (30 - i))
    above = jnp.where(bits >= middle[..., None], masses, 0.0)
    return jnp.where(jnp.sum(above, axis=-1) >= wanted, middle, low)

  low = jax.lax.fori_loop(0, 31, halve, low)
  return jax.lax.bitcast_convert_type(low, jnp.float32)

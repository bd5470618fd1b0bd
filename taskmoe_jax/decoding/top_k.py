"""The likeliest tokens of a vocabulary, without sorting it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

_BLOCK = 128
_MOST_PASSES = 16


def largest(
  values: Float[Array, "*b V"], k: int
) -> tuple[Float[Array, "*b k"], Int[Array, "*b k"]]:
  """The k largest values, largest first, and where they stand.

  What `jax.lax.top_k` returns, which sorts all V. Here the values are cut into
  blocks. The k largest lie in the k blocks whose maxima are largest, and only
  these are looked at. Ties go to the lower index, in blocks and inside them.
  """
  size = values.shape[-1]
  if size <= _BLOCK * k:
    return passes(values, k)
  padding = -size % _BLOCK
  if padding:
    values = _padded(values, padding)
  blocks = values.reshape(*values.shape[:-1], -1, _BLOCK)
  _, best = passes(jnp.max(blocks, axis=-1), k)
  best = jnp.sort(best, axis=-1)
  inside = jnp.take_along_axis(blocks, best[..., None], axis=-2)
  flat = inside.reshape(*inside.shape[:-2], -1)
  found, at = passes(flat, k)
  block = jnp.take_along_axis(best, at // _BLOCK, axis=-1)
  return found, block * _BLOCK + at % _BLOCK


def passes(
  values: Float[Array, "*b n"], k: int
) -> tuple[Float[Array, "*b k"], Int[Array, "*b k"]]:
  """The k largest values by k passes of argmax, for few values.

  Where there are fewer than k, the rest are -inf, at any index. For a large k a
  sort is the cheaper way.
  """
  if k > _MOST_PASSES:
    lacking = max(k - values.shape[-1], 0)
    return tuple(jax.lax.top_k(_padded(values, lacking), k))
  found, indices = [], []
  for _ in range(k):
    index = jnp.argmax(values, axis=-1).astype(jnp.int32)
    found.append(jnp.max(values, axis=-1))
    indices.append(index)
    taken = jax.nn.one_hot(index, values.shape[-1], dtype=bool)
    values = jnp.where(taken, -jnp.inf, values)
  return jnp.stack(found, axis=-1), jnp.stack(indices, axis=-1)


def _padded(values: Float[Array, "*b n"], number: int) -> jax.Array:
  widths = [(0, 0)] * (values.ndim - 1) + [(0, number)]
  return jnp.pad(values, widths, constant_values=-jnp.inf)


def at_least_mass(
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

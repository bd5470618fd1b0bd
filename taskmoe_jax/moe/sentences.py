"""Means over sentences, one or several of which stand in a row."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sentence_mean(
  x: Float[Array, "B S D"],
  segment_ids: Int[Array, "B S"],
  of_segments: Int[Array, "B L"],
  *,
  packed: bool,
) -> Float[Array, "B *L D"]:
  """Mean of `x` over each sentence.

  Sentences of one row never see each other: packed, each token of `of_segments`
  gets the mean of the tokens of `x` with its own segment id in its own row
  (lingvo's assumes ids unique in the whole batch). Padding counts nowhere.

  Returns:
    `[B, D]`, or `[B, L, D]` when packed. Zero where a sentence has no tokens.
  """
  if not packed:
    weights = (segment_ids > 0).astype(jnp.float32)
    total = jnp.einsum("bs,bsd->bd", weights, x.astype(jnp.float32))
    return total / jnp.maximum(weights.sum(1), 1.0)[:, None]
  same = of_segments[:, :, None] == segment_ids[:, None, :]
  weights = (same & (segment_ids > 0)[:, None, :]).astype(jnp.float32)
  total = jnp.einsum("bls,bsd->bld", weights, x.astype(jnp.float32))
  return total / jnp.maximum(weights.sum(2), 1.0)[:, :, None]

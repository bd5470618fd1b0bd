"""Multi-head attention, and T5's relative position bias.

Keys and values are computed separately from attention, so that decoding can
cache both: those of earlier steps, and those of the source, computed once.
"""

import functools

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.noise import Dropout
from taskmoe_jax.layers.projections import matrix_product, scaled_normal
from taskmoe_jax.partitioning.rules import constrain

# Far below any logit, far above the lowest number of bfloat16.
_MASKED = -1e9


@flax.struct.dataclass
class KeysValues:
  """Keys and values `[B, L, N, H]` of one attention layer."""

  keys: jax.Array
  values: jax.Array

  def remembered(self) -> "KeysValues":
    """The same as `[B, N, L, H]`, the layout that decoding steps read."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 1, 2), self)


@flax.struct.dataclass
class Past:
  """Keys and values `[B, N, T, M, H]` of M hypotheses of each of B sentences.

  Hypothesis m of step t keeps its slot. When hypotheses are reordered, as those
  of a beam are at every step, nothing is moved: `places` records the slots of
  each one's earlier tokens, and a mask hides the others. M times as many logits
  cost less than the copies would, and one product of M rows is faster than M
  products of one row.
  """

  keys: jax.Array
  values: jax.Array

  @classmethod
  def empty(cls, like: KeysValues, length: int, num_hypotheses: int) -> "Past":
    """Room for `length` tokens of each hypothesis."""
    rows, _, heads, width = like.keys.shape
    shape = (rows, heads, length, num_hypotheses, width)
    return cls(
      jnp.zeros(shape, like.keys.dtype), jnp.zeros(shape, like.values.dtype)
    )

  def update(self, new: KeysValues, position: jax.Array) -> "Past":
    """Writes keys and values `[B, M, N, H]` of the tokens at `position`."""

    def write(old, x):
      x = jnp.swapaxes(x, 1, 2)[:, :, None]
      return jax.lax.dynamic_update_slice_in_dim(old, x, position, 2)

    return Past(write(self.keys, new.keys), write(self.values, new.values))

  def places(self) -> KeysValues:
    """All of it as `[B, N, T·M, H]`."""

    def flat(x):
      return x.reshape(*x.shape[:2], -1, x.shape[-1])

    return KeysValues(flat(self.keys), flat(self.values))


class Attention(nn.Module):
  """Attention of N heads without biases and without 1/sqrt(H).

  The missing scale is made up for in the queries' initial scale, (D·H)^-0.5, as
  in T5, whose engines hard-code it so.
  """

  num_heads: int
  head_dim: int
  embed_dim: int
  dropout_rate: float
  dtype: jnp.dtype

  def setup(self):
    d, n, h = self.embed_dim, self.num_heads, self.head_dim
    split = (axes.EMBED, axes.HEADS, axes.KV)

    def declare(name, scale, logical_axes, shape):
      weight = self.param(
        name, scaled_normal(scale, logical_axes), shape, jnp.float32
      )
      return weight.astype(self.dtype)

    self.query = declare("query", (d * h) ** -0.5, split, (d, n, h))
    self.key = declare("key", d**-0.5, split, (d, n, h))
    self.value = declare("value", d**-0.5, split, (d, n, h))
    self.out = declare(
      "out", (n * h) ** -0.5, (axes.HEADS, axes.KV, axes.EMBED), (n, h, d)
    )
    self.dropout = Dropout(self.dropout_rate)

  def keys_values(self, x: Float[Array, "B S D"]) -> KeysValues:
    return KeysValues(
      matrix_product(x, self.key), matrix_product(x, self.value)
    )

  def __call__(
    self,
    x: Float[Array, "B T D"],
    memory: KeysValues,
    mask: Bool[Array, "#B #T S"],
    bias: Float[Array, "N T S"] | None = None,
    *,
    train: bool = False,
  ) -> Float[Array, "B T D"]:
    """Attends from `x` to the memory wherever the mask allows it.

    Args:
      x: What attends.
      memory: Keys and values of what is attended to.
      mask: True where position T may see position S.
      bias: Added to the logits: the relative position bias.
      train: Whether attention weights are dropped out.
    """
    query = matrix_product(x, self.query)
    query = constrain(
      query, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_HEADS, axes.ACT_KV
    )
    logits = jnp.einsum(
      "btnh,bsnh->bnts",
      query,
      memory.keys,
      preferred_element_type=jnp.float32,
    )
    if bias is not None:
      logits = logits + bias[None]
    logits = jnp.where(mask[:, None], logits, _MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    weights = self.dropout(weights, train=train)
    read = jnp.einsum("bnts,bsnh->btnh", weights, memory.values)
    y = matrix_product(read, self.out, inner=2)
    return constrain(y, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)

  def step(
    self,
    x: Float[Array, "B M D"],
    memory: KeysValues,
    mask: Bool[Array, "#B #M S"],
    bias: Float[Array, "N S"] | None = None,
  ) -> Float[Array, "B M D"]:
    """Attends from one token of each of M hypotheses.

    Args:
      x: What attends.
      memory: Keys and values `[B, N, S, H]`.
      mask: True where a hypothesis may see place S.
      bias: Added to the logits, the same for all: they are at one position.
    """
    query = jnp.einsum("bmd,dnh->bnmh", x, self.query)
    logits = jnp.einsum(
      "bnmh,bnsh->bnms",
      query,
      memory.keys,
      preferred_element_type=jnp.float32,
    )
    if bias is not None:
      logits = logits + bias[None, :, None]
    logits = jnp.where(mask[:, None], logits, _MASKED)
    weights = jax.nn.softmax(logits, axis=-1).astype(self.dtype)
    read = jnp.einsum("bnms,bnsh->bnmh", weights, memory.values)
    y = jnp.einsum("bnmh,nhd->bmd", read, self.out)
    return constrain(y, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)


def relative_position_buckets(
  distance: Int[Array, "T S"],
  *,
  bidirectional: bool,
  num_buckets: int,
  max_distance: int,
) -> Int[Array, "T S"]:
  """T5's buckets: near distances have one each, far ones share log-wide ones.

  Follows google-research/t5x, `relative_position_biases.py`, but looks the far
  ones up in a table made on the host: distances such as 16 and 32 lie exactly
  on a boundary, which an accelerator's logarithm may put on either side.

  Args:
    distance: Position attended to, minus position that attends.
    bidirectional: Encoder: half of the buckets are for later positions.
      Decoder: all are for earlier ones.
    num_buckets: Total number of buckets.
    max_distance: Distances from here on share the last bucket.
  """
  bucket = jnp.zeros_like(distance)
  back = -distance
  if bidirectional:
    num_buckets //= 2
    bucket = bucket + (back < 0).astype(jnp.int32) * num_buckets
    back = jnp.abs(back)
  else:
    back = jnp.maximum(back, 0)
  table = _buckets_by_distance(num_buckets, max_distance)
  return bucket + jnp.take(table, jnp.minimum(back, max_distance), mode="clip")


@functools.cache
def _buckets_by_distance(
  num_buckets: int, max_distance: int
) -> Int[np.ndarray, "distances"]:
  """Buckets of the distances 0 to `max_distance`, in one direction."""
  exact = num_buckets // 2
  distance = np.arange(max_distance + 1)
  # Rounded at the 9th digit: the logarithm of an exact power is a whole number.
  powers = np.log(np.maximum(distance, 1) / exact) / np.log(
    max_distance / exact
  )
  far = exact + np.floor(np.round(powers * (num_buckets - exact), 9))
  far = np.minimum(far, num_buckets - 1)
  return np.where(distance < exact, distance, far).astype(np.int32)


class RelativePositionBias(nn.Module):
  """One learned number per bucket and head, shared by all layers of a stack.

  Packed rows need nothing special: a segment is contiguous, so distances inside
  it are those of the row, and the mask hides all others.
  """

  num_heads: int
  bidirectional: bool
  embed_dim: int
  num_buckets: int = 32
  max_distance: int = 128

  @nn.compact
  def __call__(
    self, query_positions: Int[Array, "T"], key_positions: Int[Array, "S"]
  ) -> Float[Array, "N T S"]:
    table = self.param(
      "table",
      scaled_normal(self.embed_dim**-0.5, (axes.POSITION, axes.HEADS)),
      (self.num_buckets, self.num_heads),
      jnp.float32,
    )
    buckets = relative_position_buckets(
      key_positions[None, :] - query_positions[:, None],
      bidirectional=self.bidirectional,
      num_buckets=self.num_buckets,
      max_distance=self.max_distance,
    )
    return jnp.moveaxis(jnp.take(table, buckets, axis=0), -1, 0)

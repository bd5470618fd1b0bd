"""The inputs of routers besides tokens, and the mean of a sentence."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@flax.struct.dataclass
class RouterInputs:
  """What routers know about the rows, besides the tokens.

  Attributes:
    task_ids: Task of each row.
    segment_ids: Which sentence a token belongs to: 1, 2, ... and 0 for padding.
    token_ids: What the stack reads, for routers by word. In a decoder that is
      the token before the one to be written, so that nothing comes too early.
    task_vectors: The stack's learned vector of each row's task, if it has one.
    sentence: Mean of the encoder's output over a token's sentence, for routers
      in a decoder: `[B, D]`, or `[B, L, D]` when rows hold several sentences.
    packed: Whether a row may hold several sentences.
    rows_per_task_group: Size of the groups of consecutive rows with one task.
  """

  task_ids: Int[Array, "B"]
  segment_ids: Int[Array, "B L"]
  token_ids: Int[Array, "B L"] | None = None
  task_vectors: Float[Array, "B D"] | None = None
  sentence: Float[Array, "B *L D"] | None = None
  packed: bool = flax.struct.field(pytree_node=False, default=False)
  rows_per_task_group: int = flax.struct.field(pytree_node=False, default=1)


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

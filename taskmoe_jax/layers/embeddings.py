"""Token embeddings and the softmax over the vocabulary."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.projections import matrix_product, scaled_normal
from taskmoe_jax.partitioning.rules import constrain


class TokenEmbedding(nn.Module):
  """A table of token vectors, which may also serve as the softmax.

  As a softmax the logits are scaled by D^-0.5, because the table's entries
  have unit variance (T5 with tied embeddings). Input vectors are not scaled.
  """

  vocab_size: int
  embed_dim: int
  dtype: jnp.dtype

  def setup(self):
    self.table = self.param(
      "table",
      scaled_normal(1.0, (axes.VOCAB, axes.EMBED)),
      (self.vocab_size, self.embed_dim),
      jnp.float32,
    )

  def __call__(self, token_ids: Int[Array, "B L"]) -> Float[Array, "B L D"]:
    # Cast after the lookup: the gradients of a token that is in every row,
    # such as `<2xx>`, are then summed in float32.
    x = jnp.take(self.table, token_ids, axis=0).astype(self.dtype)
    return constrain(x, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)

  def logits(self, x: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
    """Scores of every token, in float32."""
    x = x * jnp.asarray(self.embed_dim**-0.5, x.dtype)
    softmax = self.table.astype(self.dtype).T
    scores = matrix_product(x, softmax, dtype=jnp.float32)
    return constrain(scores, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_VOCAB)

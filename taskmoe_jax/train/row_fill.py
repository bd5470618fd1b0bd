"""How full the rows of a batch are."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from taskmoe_jax.models.transformer import Batch
from taskmoe_jax.vocabulary import PAD_ID


def row_fill(batch: Batch) -> Float[Array, ""]:
  """Mean share of places that hold a token, of each row's fuller side.

  It is `TrainBatches.stats["row_fill"]` of one batch. Counted in the step, it
  is of just the batches that were trained on, of all hosts, and not of those
  that wait to be.
  """
  sides = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
  fills = [(tokens != PAD_ID).mean(axis=1) for tokens in sides]
  return jnp.maximum(*fills).mean()

"""How likely a model finds translations that are given."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.vocabulary import PAD_ID


@functools.partial(
  jax.jit, static_argnames=("model", "rows_per_task_group", "partitioning")
)
def log_probabilities(
  params: PyTree,
  sources: Int[Array, "B S"],
  targets: Int[Array, "B T"],
  task_ids: Int[Array, "B"],
  *,
  model: Transformer,
  rows_per_task_group: int,
  partitioning: Partitioning | None = None,
) -> Float[Array, "B T"]:
  """Log-probability of every target token; of padding it may be anything."""
  batch = {
    "encoder_input_tokens": sources,
    "decoder_input_tokens": jnp.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_loss_weights": (targets != PAD_ID).astype(jnp.float32),
  }

  def run():
    logits, _ = model.apply(
      {"params": params},
      batch,
      task_ids,
      train=False,
      rows_per_task_group=rows_per_task_group,
    )
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)

  if partitioning is None:
    return run()
  with activate(partitioning):
    found = run()
  return jax.lax.with_sharding_constraint(found, partitioning.replicated)

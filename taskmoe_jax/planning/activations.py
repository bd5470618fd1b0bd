"""How much of a forward pass a device keeps for the backward pass."""

from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn
from jax.extend import core

from taskmoe_jax import axes
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.step.microbatches import rows_together


def activation_bytes(program: Program, batch: Mapping[str, Any]) -> int:
  """A device's share of what the forward pass saves for the backward pass.

  An estimate: what JAX's differentiation saves, with rematerialization; XLA
  fuses some of it away, and needs room for gradients and temporaries.

  Args:
    program: The program; its partitioning must be active.
    batch: Shapes of the batch that it is fed.
  """
  params, parts = nn.unbox(program.params), program.step.num_microbatches
  together = rows_together(
    batch["source_language"].shape[0], parts, program.step.rows_per_task_group
  )
  # Microbatches run one after the other and reuse the memory.
  batch = {
    name: jax.ShapeDtypeStruct(
      (rows.shape[0] // parts, *rows.shape[1:]), rows.dtype
    )
    for name, rows in batch.items()
  }
  task_ids = batch["source_language"]

  def backward(params, batch, task_ids):
    def loss(params):
      logits, _ = program.step.model.apply(
        {"params": params},
        batch,
        task_ids,
        train=True,
        rows_per_task_group=together,
        rngs={"dropout": jax.random.key(0)},
      )
      # Any loss of a token reads all of its logits.
      return jax.nn.logsumexp(logits, axis=-1).sum()

    return jax.vjp(loss, params)[1]

  jaxpr = jax.make_jaxpr(backward)(params, batch, task_ids).jaxpr
  # Parameters are saved too, at no extra cost.
  given = set(jaxpr.invars)
  saved = {
    variable
    for variable in jaxpr.outvars
    if isinstance(variable, core.Var) and variable not in given
  }
  model, partitioning = program.step.model.config, program.partitioning
  return sum(
    _device_share(variable.aval, model, partitioning) for variable in saved
  )


def _device_share(
  array: Any, model: ModelConfig, partitioning: Partitioning
) -> int:
  """Bytes that one device holds of an activation.

  Rows are split over devices; along `model` so are heads, hidden widths and
  vocabulary, which are recognized here by their sizes.
  """
  shards = partitioning.num_row_shards
  widths = {model.vocab_size}
  for stack in (model.encoder, model.decoder):
    widths |= set(stack.mlp_dims)
    if stack.moe is not None:
      widths.add(stack.moe.expert_mlp_dim)
  by_model = array.shape[-1:] and (
    array.shape[-1] in widths or model.num_heads in array.shape[1:]
  )
  if by_model:
    shards *= partitioning.mesh.shape[axes.MODEL_MESH]
  return -(-array.size * array.dtype.itemsize // shards)

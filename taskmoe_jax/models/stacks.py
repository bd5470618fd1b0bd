"""A stack: position bias, scanned blocks, final norm, task vectors."""

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.attention import KeysValues, RelativePositionBias
from taskmoe_jax.layers.initializers import scaled_normal
from taskmoe_jax.layers.norms import RMSNorm
from taskmoe_jax.models.blocks import Block, LayerMemory
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.routing import RouterInputs
from taskmoe_jax.moe.statistics import RoutingStatistics


class Stack(nn.Module):
  """Encoder or decoder.

  Blocks are scanned: their parameters have a leading `layer` axis, and a deep
  stack compiles as fast as a single block.
  """

  config: ModelConfig
  stack: StackConfig
  is_decoder: bool
  num_tasks: int

  def setup(self):
    config = self.config
    self.position_bias = RelativePositionBias(
      num_heads=config.num_heads,
      bidirectional=not self.is_decoder,
      embed_dim=config.embed_dim,
    )
    self.blocks = Block(config, self.stack, self.is_decoder, self.num_tasks)
    self.final_norm = RMSNorm()
    self.dropout = nn.Dropout(config.dropout_rate)
    if self._has_task_vectors:
      self.task_table = self.param(
        "task_table",
        scaled_normal(1.0, (axes.TASK, axes.EMBED)),
        (self.num_tasks, config.embed_dim),
        jnp.float32,
      )

  @property
  def _has_task_vectors(self) -> bool:
    moe = self.stack.moe
    return moe is not None and moe.granularity.has_task_vectors

  def with_task_vectors(self, inputs: RouterInputs) -> RouterInputs:
    """Looks up the learned vectors of the rows' tasks, one table per stack."""
    if not self._has_task_vectors:
      return inputs
    vectors = jnp.take(self.task_table, inputs.task_ids, axis=0)
    return inputs.replace(task_vectors=vectors)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    inputs: RouterInputs,
    mask: Bool[Array, "#B L L"],
    encoded: Float[Array, "B S D"] | None = None,
    source_mask: Bool[Array, "B L S"] | None = None,
    *,
    train: bool,
  ) -> tuple[Float[Array, "B L D"], RoutingStatistics | None]:
    """Runs all positions; statistics have a leading axis of blocks."""
    positions = jnp.arange(x.shape[1])
    bias = self.position_bias(positions, positions)
    inputs = self.with_task_vectors(inputs)

    def body(block, x, _):
      return block(x, inputs, mask, bias, encoded, source_mask, train=train)

    x = self.dropout(x, deterministic=not train)
    x, statistics = self._scan(body)(self.blocks, x, None)
    x = self.dropout(self.final_norm(x), deterministic=not train)
    return x, statistics

  def start(
    self,
    encoded: Float[Array, "B S D"],
    inputs: RouterInputs,
    target_length: int,
  ) -> list[LayerMemory]:
    """Memory for `target_length` steps over an encoded source."""
    inputs = self.with_task_vectors(inputs)

    def body(block, carry, _):
      return carry, block.start(encoded, inputs, target_length)

    _, memories = self._scan(body)(self.blocks, (), None)
    return memories

  def step(
    self,
    x: Float[Array, "B 1 D"],
    memories: list[LayerMemory],
    inputs: RouterInputs,
    source_mask: Bool[Array, "B 1 S"],
    position: Int[Array, ""],
  ) -> tuple[Float[Array, "B 1 D"], list[LayerMemory]]:
    """Runs the target position `position`, the same for every row."""
    past: KeysValues = memories[0].past
    positions = jnp.arange(past.keys.shape[2])
    bias = self.position_bias(position[None], positions)
    mask = (positions <= position)[None, None, :]
    inputs = self.with_task_vectors(inputs)

    def body(block, x, memories):
      return block.step(x, memories, inputs, mask, bias, source_mask, position)

    # Steps hand on what they wrote alone: the rest would be copied each time.
    x, pasts = self._scan(body)(self.blocks, x, memories)
    memories = [
      memory.replace(past=past)
      for memory, past in zip(memories, pasts, strict=True)
    ]
    return self.final_norm(x), memories

  def _scan(self, body):
    return nn.scan(
      body,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      length=self.stack.num_blocks,
      metadata_params={nn.PARTITION_NAME: axes.LAYER},
    )

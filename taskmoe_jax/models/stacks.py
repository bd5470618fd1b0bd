"""A stack: position bias, scanned blocks, final norm, task vectors."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.attention import RelativePositionBias
from taskmoe_jax.layers.noise import Dropout
from taskmoe_jax.layers.norms import RMSNorm
from taskmoe_jax.layers.projections import scaled_normal
from taskmoe_jax.models.blocks import Block, LayerMemory
from taskmoe_jax.models.config import ModelConfig, Rematerialize, StackConfig
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.statistics import GATE_STATISTICS, RoutingStatistics


class Stack(nn.Module):
  """Encoder or decoder.

  Blocks are scanned: their parameters have a leading `layer` axis, and a deep
  stack compiles as fast as a single block. Not so for decoding: a step would
  copy every matrix out of its stack before it multiplies with it. `unrolled`
  gives each block its own parameters (`models.parameters` makes them), and has
  `start` and `step`.
  """

  config: ModelConfig
  stack: StackConfig
  is_decoder: bool
  num_tasks: int
  unrolled: bool = False

  def setup(self):
    config = self.config
    self.position_bias = RelativePositionBias(
      num_heads=config.num_heads,
      bidirectional=not self.is_decoder,
      embed_dim=config.embed_dim,
    )
    kind, sizes = Block, (config, self.stack, self.is_decoder, self.num_tasks)
    if self.unrolled:
      self.block = [kind(*sizes) for _ in range(self.stack.num_blocks)]
    else:
      self.blocks = kind(*sizes)
    self.final_norm = RMSNorm()
    self.dropout = Dropout(config.dropout_rate)
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
    return dataclasses.replace(inputs, task_vectors=vectors)

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

    x = self.dropout(x, train=train)
    body = _rematerialized(body, self.config.rematerialize if train else None)
    x, statistics = self._scan(body)(self.blocks, x, None)
    x = self.dropout(self.final_norm(x), train=train)
    return x, statistics

  def start(
    self,
    encoded: Float[Array, "B S D"],
    inputs: RouterInputs,
    target_length: int,
    num_hypotheses: int,
  ) -> list[list[LayerMemory]]:
    """Memory for `target_length` steps over an encoded source."""
    inputs = self.with_task_vectors(inputs)
    return [
      block.start(encoded, inputs, target_length, num_hypotheses)
      for block in self.block
    ]

  def step(
    self,
    x: Float[Array, "B M D"],
    memories: list[list[LayerMemory]],
    inputs: RouterInputs,
    source_mask: Bool[Array, "B 1 S"],
    position: Int[Array, ""],
    places: Int[Array, "B M T"],
  ) -> tuple[Float[Array, "B M D"], list[list[LayerMemory]]]:
    """Runs the target position `position`, the same for every hypothesis.

    Args:
      x: The embedded tokens at this position.
      memories: The memory of each layer of each block.
      inputs: The router's inputs during decoding.
      source_mask: Which source positions hold tokens.
      position: The target position, counted from 0.
      places: The slots of each hypothesis' tokens in `Past`.
    """
    num_hypotheses, length = places.shape[1:]
    positions = jnp.arange(length)
    bias = self.position_bias(position[None], positions)[:, 0]
    # [B, M, T, M]: which slot hypothesis m had at step t.
    mask = jax.nn.one_hot(places, num_hypotheses, dtype=bool)
    mask = mask & (positions <= position)[None, None, :, None]
    mask = mask.reshape(*mask.shape[:2], -1)
    bias = jnp.repeat(bias, num_hypotheses, axis=1)
    inputs = self.with_task_vectors(inputs)
    extended = []
    for block, memory in zip(self.block, memories, strict=True):
      x, memory = block.step(
        x, memory, inputs, mask, bias, source_mask, position
      )
      extended.append(memory)
    return self.final_norm(x), extended

  def _scan(self, body):
    return nn.scan(
      body,
      variable_axes={"params": 0, GATE_STATISTICS: 0},
      split_rngs={"params": True, "dropout": True},
      length=self.stack.num_blocks,
      metadata_params={nn.PARTITION_NAME: axes.LAYER},
    )


def _rematerialized(body: Callable, what: Rematerialize | None) -> Callable:
  """A scan's body, part of which the backward pass recomputes."""
  policies = {
    Rematerialize.ALL_BUT_PRODUCTS: (
      jax.checkpoint_policies.dots_with_no_batch_dims_saveable
    ),
    Rematerialize.FULL: jax.checkpoint_policies.nothing_saveable,
  }
  if what not in policies:
    return body
  # Inside a scan XLA cannot undo it anyway.
  return nn.remat(body, policy=policies[what], prevent_cse=False)

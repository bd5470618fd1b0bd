"""The repeating block of layers of a stack."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from taskmoe_jax.layers.attention import Attention, KeysValues, Past
from taskmoe_jax.layers.feed_forward import FeedForward, FeedForwardWeights
from taskmoe_jax.layers.noise import Dropout
from taskmoe_jax.layers.norms import RMSNorm
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.layer import MoeFeedForward
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.statistics import RoutingStatistics


@flax.struct.dataclass
class LayerMemory:
  """What one decoder layer keeps while decoding.

  Attributes:
    past: Keys and values of the target tokens so far, written step by step.
    source: Keys and values `[B, N, S, H]` of the encoder's output, computed
      once and read by all hypotheses of a sentence.
    experts: The experts of an MoE layer routed by task, fetched once.
  """

  past: Past
  source: KeysValues
  experts: FeedForwardWeights | None = None


class Layer(nn.Module):
  """Self-attention, attention to the source in a decoder, feed-forward.

  Pre-norm: each part reads a normalized input and adds to the residual stream.
  `mlp_dim` None makes the feed-forward an MoE.
  """

  config: ModelConfig
  stack: StackConfig
  mlp_dim: int | None
  is_decoder: bool
  num_tasks: int

  def setup(self):
    config = self.config
    dtype = jnp.dtype(config.dtype)

    def attention():
      return Attention(
        num_heads=config.num_heads,
        head_dim=config.head_dim,
        embed_dim=config.embed_dim,
        dropout_rate=config.dropout_rate,
        dtype=dtype,
      )

    self.self_attention_norm = RMSNorm()
    self.self_attention = attention()
    if self.is_decoder:
      self.source_attention_norm = RMSNorm()
      self.source_attention = attention()
    self.mlp_norm = RMSNorm()
    if self.mlp_dim is None:
      self.moe = MoeFeedForward(
        self.stack.moe, self.num_tasks, config.activation
      )
    else:
      self.mlp = FeedForward(
        self.mlp_dim, config.activation, config.dropout_rate, dtype
      )
    self.dropout = Dropout(config.dropout_rate)

  def start(
    self,
    encoded: Float[Array, "B S D"],
    inputs: RouterInputs,
    target_length: int,
    num_hypotheses: int,
  ) -> LayerMemory:
    """The memory that all steps read, with room for what they write."""
    source = self.source_attention.keys_values(encoded)
    past = Past.empty(source, target_length, num_hypotheses)
    experts = None
    if self.mlp_dim is None:
      experts = self.moe.fetch(encoded[:, :1], inputs)
    return LayerMemory(past, source.remembered(), experts)

  def __call__(
    self,
    x: Float[Array, "B L D"],
    inputs: RouterInputs,
    mask: Bool[Array, "#B L L"],
    bias: Float[Array, "N L L"],
    encoded: Float[Array, "B S D"] | None = None,
    source_mask: Bool[Array, "B L S"] | None = None,
    *,
    train: bool,
  ) -> tuple[Float[Array, "B L D"], RoutingStatistics | None]:
    """Runs all positions at once."""
    normed = self.self_attention_norm(x)
    memory = self.self_attention.keys_values(normed)
    y = self.self_attention(normed, memory, mask, bias, train=train)
    x = x + self.dropout(y, train=train)
    if self.is_decoder:
      source = self.source_attention.keys_values(encoded)
      x = self._read_source(x, source, source_mask, train=train)
    return self._feed_forward(x, inputs, train=train)

  def step(
    self,
    x: Float[Array, "B M D"],
    memory: LayerMemory,
    inputs: RouterInputs,
    mask: Bool[Array, "B M P"],
    bias: Float[Array, "N P"],
    source_mask: Bool[Array, "B 1 S"],
    position: jax.Array,
  ) -> tuple[Float[Array, "B M D"], LayerMemory]:
    """Runs one target position, and extends what the memory has of the past."""
    normed = self.self_attention_norm(x)
    new = self.self_attention.keys_values(normed)
    past = memory.past.update(new, position)
    x = x + self.self_attention.step(normed, past.places(), mask, bias)
    normed = self.source_attention_norm(x)
    x = x + self.source_attention.step(normed, memory.source, source_mask)
    normed = self.mlp_norm(x)
    if self.mlp_dim is None:
      y = self.moe.step(normed, inputs, memory.experts)
    else:
      y = self.mlp(normed, train=False)
    return x + y, dataclasses.replace(memory, past=past)

  def _read_source(self, x, source, source_mask, *, train):
    normed = self.source_attention_norm(x)
    y = self.source_attention(normed, source, source_mask, train=train)
    return x + self.dropout(y, train=train)

  def _feed_forward(self, x, inputs, *, train):
    normed = self.mlp_norm(x)
    if self.mlp_dim is None:
      y, statistics = self.moe(normed, inputs, train=train)
    else:
      y, statistics = self.mlp(normed, train=train), None
    return x + self.dropout(y, train=train), statistics


class Block(nn.Module):
  """The layers `layer_0`, `layer_1`, ... of one repetition."""

  config: ModelConfig
  stack: StackConfig
  is_decoder: bool
  num_tasks: int

  def setup(self):
    widths = (*self.stack.mlp_dims, *([None] if self.stack.moe else []))
    self.layer = [
      Layer(self.config, self.stack, width, self.is_decoder, self.num_tasks)
      for width in widths
    ]

  def __call__(self, x: Float[Array, "B L D"], *args, train: bool):
    statistics = None
    for layer in self.layer:
      x, found = layer(x, *args, train=train)
      statistics = found if found is not None else statistics
    return x, statistics

  def step(
    self, x: Float[Array, "B M D"], memories: list[LayerMemory], *args
  ) -> tuple[Float[Array, "B M D"], list[LayerMemory]]:
    extended = []
    for layer, memory in zip(self.layer, memories, strict=True):
      x, memory = layer.step(x, memory, *args)
      extended.append(memory)
    return x, extended

  def start(self, *args) -> list[LayerMemory]:
    return [layer.start(*args) for layer in self.layer]

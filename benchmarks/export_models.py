"""The models that `export` measures, and parameters for them."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.task_space import TaskSpace


def model_of(
  *,
  embed_dim: int,
  num_heads: int,
  mlp_dim: int,
  vocab_size: int,
  num_experts: int,
  encoder: str,
  decoder: str,
) -> ModelConfig:
  """Six and six layers, half of them mixtures, as all of the paper's models."""

  def stack(granularity):
    moe = MoeConfig(
      granularity=GRANULARITIES[granularity],
      num_experts=num_experts,
      num_selected=2,
      expert_mlp_dim=mlp_dim,
      dispatch=Dispatch.AUTO,
      capacity_factor=2.0,
      group_size=1024,
      balance_loss_weight=0.01,
      z_loss_weight=0.001,
    )
    return StackConfig(num_layers=6, mlp_dims=(mlp_dim,), moe=moe)

  return ModelConfig(
    vocab_size=vocab_size,
    embed_dim=embed_dim,
    num_heads=num_heads,
    head_dim=embed_dim // num_heads,
    activation=Activation.RELU,
    embeddings=Embeddings.THREE,
    encoder=stack(encoder),
    decoder=stack(decoder),
  )


def random_params(model: ModelConfig, space: TaskSpace) -> PyTree:
  """Of the size that training begins with: 1/sqrt(fan in), norms near 1."""
  generator = np.random.default_rng(3)

  def draw(path, leaf):
    values = generator.standard_normal(leaf.shape, np.float32)
    if path[-1].key == "scale":
      return 1 + 0.1 * values
    if path[-1].key == "task_table":
      return values
    return values * np.float32(leaf.shape[-2] ** -0.5)

  shapes = parameters.abstract_params(Transformer(model, len(space.tasks)))
  return jax.tree_util.tree_map_with_path(draw, nn.unbox(shapes))


def initial_params(model: ModelConfig, space: TaskSpace) -> PyTree:
  """Those that training begins with, but for norms, which are near 1."""
  network = Transformer(model, len(space.tasks))
  tokens = jnp.zeros((1, 1), jnp.int32)
  batch = {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": tokens,
    "decoder_loss_weights": jnp.zeros((1, 1), jnp.float32),
  }
  drawn = jax.jit(
    lambda key: network.init(key, batch, tokens[0], train=False)["params"]
  )(jax.random.key(3))
  generator = np.random.default_rng(3)

  def near_one(path, leaf):
    if path[-1].key != "scale":
      return leaf
    return leaf + 0.1 * generator.standard_normal(leaf.shape, np.float32)

  return jax.tree_util.tree_map_with_path(near_one, nn.unbox(drawn))

"""Models so small that they compile in seconds; no two sizes are equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import MoeConfig

NUM_TASKS = 3


def _stack(granularity, num_layers, moe):
  if granularity is None:
    return StackConfig(num_layers=num_layers, mlp_dims=(11,))
  values = {
    "granularity": granularity,
    "num_experts": 5,
    "num_selected": 2,
    "expert_mlp_dim": 13,
    "dispatch": "auto",
    "capacity_factor": 1.5,
    "group_size": 8,
    "balance_loss_weight": 0.01,
    "z_loss_weight": 0.001,
    "word_table": "hashed",
    "num_candidates": 3,
  }
  return StackConfig(
    num_layers=num_layers,
    mlp_dims=(11,),
    moe=MoeConfig.from_dict({**values, **moe}),
  )


@pytest.fixture(scope="session")
def tiny_config():
  """Makes a config; a granularity of None is a dense stack."""

  def make(encoder="token", decoder="task", moe=(), **changes):
    values = {
      "vocab_size": 19,
      "embed_dim": 14,
      "num_heads": 3,
      "head_dim": 7,
      "activation": "relu",
      "embeddings": "one",
      "encoder": _stack(encoder, 2, dict(moe)),
      "decoder": _stack(decoder, 4, dict(moe)),
    }
    return ModelConfig.from_dict({**values, **changes})

  return make


@pytest.fixture(scope="session")
def abstract_params():
  """Shapes of a config's parameters, with their logical axes."""

  def abstract(config, num_tasks=NUM_TASKS):
    tokens = jnp.zeros((1, 1), jnp.int32)
    batch = {
      "encoder_input_tokens": tokens,
      "decoder_input_tokens": tokens,
      "decoder_loss_weights": jnp.zeros((1, 1)),
    }
    model = Transformer(config, num_tasks)
    tasks = jnp.zeros(1, jnp.int32)
    return jax.eval_shape(
      lambda: model.init(jax.random.key(0), batch, tasks, train=False)
    )["params"]

  return abstract


@pytest.fixture(scope="session")
def draw_params(abstract_params):
  """Draws parameters without compiling; no scale is 1, no bias 0."""

  def draw(config, seed=0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(
      lambda leaf: jnp.asarray(0.4 * rng.normal(size=leaf.shape), jnp.float32),
      nn.unbox(abstract_params(config)),
    )

  return draw

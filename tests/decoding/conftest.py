"""A mixture so small that it compiles in seconds, for a toy vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.vocabulary import Vocabulary
from tests.trained_pieces import trained_pieces

NUM_TASKS = 3


def _stack(granularity, num_layers):
  moe = MoeConfig(
    granularity=GRANULARITIES[granularity],
    num_experts=5,
    num_selected=2,
    expert_mlp_dim=13,
    dispatch=Dispatch.AUTO,
    capacity_factor=1.0,
    group_size=64,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  return StackConfig(num_layers=num_layers, mlp_dims=(11,), moe=moe)


@pytest.fixture(scope="session")
def config():
  """Encoder by token, decoder by task: both engines decode."""
  return ModelConfig(
    vocab_size=17,
    embed_dim=14,
    num_heads=3,
    head_dim=7,
    activation=Activation.RELU,
    embeddings=Embeddings.ONE,
    encoder=_stack("token", 2),
    decoder=_stack("task", 4),
  )


@pytest.fixture(scope="session")
def model(config):
  return Transformer(config, NUM_TASKS)


@pytest.fixture(scope="session")
def params(model):
  """With a seed for which some translations end and others never do."""
  tokens = jnp.zeros((1, 1), jnp.int32)
  batch = {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": tokens,
    "decoder_loss_weights": jnp.zeros((1, 1)),
  }
  tasks = jnp.zeros(1, jnp.int32)
  boxed = jax.eval_shape(
    lambda: model.init(jax.random.key(0), batch, tasks, train=False)
  )["params"]
  rng = np.random.default_rng(59)
  return jax.tree.map(
    lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32),
    nn.unbox(boxed),
  )


@pytest.fixture(scope="session")
def vocabulary():
  """Letters of one sentence; the ids of <2en>, <2de>, <2fr> are 3, 4, 5."""
  return Vocabulary(
    trained_pieces(
      ["the cat and the hat"] * 20,
      vocab_size=16,
      symbols=["<2en>", "<2de>", "<2fr>"],
    )
  )

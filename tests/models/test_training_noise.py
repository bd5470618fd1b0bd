"""Noise of routers in a whole model: every layer has its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.models.transformer import Transformer


@pytest.mark.slow
def test_scanned_blocks_do_not_share_their_noise(tiny_config, draw_params):
  """Two blocks of the decoder with one router, asked about the same tasks.

  Only draws can make a difference, and over some keys they do.
  """
  config = tiny_config(
    "task",
    "task",
    moe={"second_expert_policy": "random", "second_expert_threshold": 1.0},
  )
  params = draw_params(config)
  router = params["decoder"]["blocks"]["layer_1"]["moe"]["router"]
  router["table"] = 0 * router["table"] + router["table"][:1]
  tokens = jnp.array([[5, 9, 1], [6, 1, 0], [7, 7, 1]])
  batch = {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": tokens,
    "decoder_loss_weights": (tokens > 0).astype(jnp.float32),
  }

  @jax.jit
  def choices(keys):
    def run(key):
      _, statistics = Transformer(config, 3).apply(
        {"params": params},
        batch,
        jnp.array([0, 1, 2]),
        train=True,
        rngs={"dropout": jax.random.key(key)},
      )
      return statistics["decoder"].task_choices  # [blocks, R, E]

    return jax.lax.map(run, keys)

  found = np.asarray(choices(jnp.arange(16)))
  assert found.shape == (16, 2, 3, 5)
  # In each block by itself both happen: a second choice made, and not made.
  made = found.sum(-1) > np.array([3, 2, 3])
  for block in (0, 1):
    assert made[:, block].any()
    assert not made[:, block].all()
  differ = (made[:, 0] != made[:, 1]).mean()
  assert 0.1 < differ < 0.9

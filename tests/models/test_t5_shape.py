"""The dense model against T5 in plain NumPy, one sentence at a time.

All other tests of models compare one way of running them with another; this
one says what they compute: pre-norm, final norms, position bias in every layer,
no 1/sqrt(d), one table, logits scaled by D^-0.5. It follows Raffel et al.,
arXiv 1910.10683, section 2.1, and the T5 of other engines
(docs/design/engines.md).
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.transformer import Transformer

SOURCES = [[5, 9, 12, 14, 1], [6, 8, 1]]
INPUTS = [[0, 7, 15], [0, 11, 4]]


def norm(x, scale):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * scale


def attend(p, x, memory, bias):
  """`bias` is -inf where a position must not be seen."""
  y = 0
  for n in range(p["query"].shape[1]):
    logits = (x @ p["query"][:, n]) @ (memory @ p["key"][:, n]).T + bias[n]
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    y = y + weights @ (memory @ p["value"][:, n]) @ p["out"][n]
  return y


def position_bias(table, length, is_decoder):
  """Distances here are below 8, so each has its own bucket."""
  bias = np.full((table.shape[1], length, length), -np.inf)
  for query in range(length):
    for key in range(length):
      if key <= query:
        bias[:, query, key] = table[query - key]
      elif not is_decoder:
        bias[:, query, key] = table[16 + key - query]
  return bias


def run_stack(p, x, encoded=None):
  is_decoder = encoded is not None
  bias = position_bias(p["position_bias"]["table"], len(x), is_decoder)
  blocks = p["blocks"]
  for block in range(blocks["layer_0"]["mlp"]["wi"].shape[0]):
    for name in sorted(blocks):
      layer = jax.tree.map(lambda leaf, block=block: leaf[block], blocks[name])
      y = norm(x, layer["self_attention_norm"]["scale"])
      x = x + attend(layer["self_attention"], y, y, bias)
      if is_decoder:
        y = norm(x, layer["source_attention_norm"]["scale"])
        x = x + attend(layer["source_attention"], y, encoded, np.zeros(3))
      y = norm(x, layer["mlp_norm"]["scale"])
      x = x + np.maximum(y @ layer["mlp"]["wi"], 0) @ layer["mlp"]["wo"]
  return norm(x, p["final_norm"]["scale"])


def t5(p, source, inputs):
  table = p["embedding"]["table"]
  encoded = run_stack(p["encoder"], table[source])
  decoded = run_stack(p["decoder"], table[inputs], encoded)
  return decoded @ table.T / np.sqrt(table.shape[1])


def test_the_model_is_t5(tiny_config, draw_params):
  """With blocks of two widths, as extraction leaves them."""
  config = dataclasses.replace(
    tiny_config(encoder=None, decoder=None),
    decoder=StackConfig(num_layers=4, mlp_dims=(11, 26)),
  )
  params = draw_params(config)
  batch = {
    "encoder_input_tokens": jnp.array([[5, 9, 12, 14, 1], [6, 8, 1, 0, 0]]),
    "decoder_input_tokens": jnp.array(INPUTS),
    "decoder_loss_weights": jnp.ones((2, 3)),
  }
  found, _ = jax.jit(
    lambda params: Transformer(config, 3).apply(
      {"params": params}, batch, jnp.zeros(2, jnp.int32), train=False
    )
  )(params)
  exact = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  for logits, source, inputs in zip(found, SOURCES, INPUTS, strict=True):
    # float32 against float64 through six layers; logits are of order 1.
    np.testing.assert_allclose(logits, t5(exact, source, inputs), atol=1e-4)

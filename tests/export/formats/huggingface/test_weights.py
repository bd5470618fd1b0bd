"""Where each number of a bundle goes in Hugging Face's T5."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.huggingface.weights import (
  refuse_what_t5_is_not,
  t5_arrays,
  t5_config,
)
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.models.parameters import abstract_params
from taskmoe_jax.models.transformer import Transformer

D, N, H, V = 4, 2, 3, 11
WIDEST = 7


def config(activation="relu", **changes):
  settings = {
    "vocab_size": V,
    "embed_dim": D,
    "num_heads": N,
    "head_dim": H,
    "activation": activation,
    "embeddings": "one",
    "encoder": StackConfig(num_layers=4, mlp_dims=(5, WIDEST)),
    "decoder": StackConfig(num_layers=1, mlp_dims=(6,)),
    **changes,
  }
  return ModelConfig.from_dict(settings)


def numbered(model):
  """Parameters of which no two numbers are the same."""
  first = 0

  def draw(leaf):
    nonlocal first
    first += leaf.size
    return np.arange(first - leaf.size, first, dtype=np.float32).reshape(
      leaf.shape
    )

  return jax.tree.map(draw, nn.unbox(abstract_params(Transformer(model, 1))))


@pytest.fixture(scope="module")
def relu():
  model = config()
  params = numbered(model)
  return params, t5_arrays(params, model)


def test_tables_and_norms(relu):
  params, arrays = relu
  np.testing.assert_array_equal(
    arrays["shared.weight"], params["embedding"]["table"]
  )
  for name in ("encoder", "decoder"):
    bias = f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias"
    np.testing.assert_array_equal(
      arrays[f"{bias}.weight"], params[name]["position_bias"]["table"]
    )
    np.testing.assert_array_equal(
      arrays[f"{name}.final_layer_norm.weight"],
      params[name]["final_norm"]["scale"],
    )


@pytest.mark.parametrize(
  ("stack", "block", "place", "theirs", "part", "kind", "ours"),
  [
    ("encoder", 0, 0, "block.0.layer.0", "self", "SelfAttention", "q"),
    ("encoder", 1, 1, "block.3.layer.0", "self", "SelfAttention", "k"),
    ("decoder", 0, 0, "block.0.layer.0", "self", "SelfAttention", "v"),
    ("decoder", 0, 0, "block.0.layer.1", "source", "EncDecAttention", "q"),
    ("decoder", 0, 0, "block.0.layer.1", "source", "EncDecAttention", "o"),
  ],
)
def test_attention(relu, stack, block, place, theirs, part, kind, ours):
  params, arrays = relu
  layer = params[stack]["blocks"][f"layer_{place}"]
  names = {"q": "query", "k": "key", "v": "value", "o": "out"}
  weights = layer[f"{part}_attention"][names[ours]][block]
  found = arrays[f"{stack}.{theirs}.{kind}.{ours}.weight"]
  for d in range(D):
    for n in range(N):
      for h in range(H):
        if ours == "o":
          assert found[d, n * H + h] == weights[n, h, d]
        else:
          assert found[n * H + h, d] == weights[d, n, h]
  assert found.size == weights.size
  norm = layer[f"{part}_attention_norm"]["scale"][block]
  np.testing.assert_array_equal(
    arrays[f"{stack}.{theirs}.layer_norm.weight"], norm
  )


@pytest.mark.parametrize(
  ("stack", "layer", "block", "place", "width"),
  [
    ("encoder", 0, 0, 0, 5),
    ("encoder", 2, 1, 0, 5),
    ("encoder", 3, 1, 1, WIDEST),
    ("decoder", 0, 0, 0, 6),
  ],
)
def test_feed_forward_networks_are_padded(
  relu, stack, layer, block, place, width
):
  params, arrays = relu
  mlp = params[stack]["blocks"][f"layer_{place}"]["mlp"]
  part = 1 if stack == "encoder" else 2
  prefix = f"{stack}.block.{layer}.layer.{part}"
  wi = arrays[f"{prefix}.DenseReluDense.wi.weight"]
  wo = arrays[f"{prefix}.DenseReluDense.wo.weight"]
  assert wi.shape == (WIDEST, D)
  assert wo.shape == (D, WIDEST)
  for d in range(D):
    for f in range(WIDEST):
      inside = f < width
      assert wi[f, d] == (mlp["wi"][block][d, f] if inside else 0)
      assert wo[d, f] == (mlp["wo"][block][f, d] if inside else 0)
  norm = params[stack]["blocks"][f"layer_{place}"]["mlp_norm"]["scale"][block]
  np.testing.assert_array_equal(arrays[f"{prefix}.layer_norm.weight"], norm)


def test_the_gelu_is_of_the_first_matrix():
  model = config("gated_gelu")
  params = numbered(model)
  arrays = t5_arrays(params, model)
  mlp = params["decoder"]["blocks"]["layer_0"]["mlp"]
  prefix = "decoder.block.0.layer.2.DenseReluDense"
  for ours, theirs in (("wi", "wi_0"), ("wi_1", "wi_1")):
    np.testing.assert_array_equal(
      arrays[f"{prefix}.{theirs}.weight"][:6].T, mlp[ours][0]
    )
    assert not arrays[f"{prefix}.{theirs}.weight"][6:].any()
  assert t5_config(model)["feed_forward_proj"] == "gated-gelu"


def test_every_number_is_stored_once(relu):
  params, arrays = relu
  ours = np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
  theirs = np.concatenate([array.ravel() for array in arrays.values()])
  # All were drawn apart; the zeros are padding, and the first number of all.
  np.testing.assert_array_equal(np.unique(ours), np.unique(theirs))
  padding = 2 * D * (2 * (WIDEST - 5) + (WIDEST - 6))
  assert theirs.size == ours.size + padding


def test_config():
  found = t5_config(config())
  assert found["d_ff"] == WIDEST
  assert (found["num_layers"], found["num_decoder_layers"]) == (4, 1)
  assert (found["d_model"], found["d_kv"], found["num_heads"]) == (D, H, N)
  assert found["feed_forward_proj"] == "relu"
  assert found["tie_word_embeddings"] is True


@pytest.mark.slow
def test_what_t5_is_not(mixture_of):
  refuse_what_t5_is_not(mixture_of("task", "static").model)
  for routing in ("token", "task_then_token", "sentence"):
    with pytest.raises(
      TaskMoeError, match=rf"decoder is routed by {routing}.*DECODER set to"
    ):
      refuse_what_t5_is_not(mixture_of("task", routing).model)
  with pytest.raises(TaskMoeError, match=r"encoder is routed.*ENCODER set to"):
    refuse_what_t5_is_not(mixture_of("word", "token").model)
  three = dataclasses.replace(config(), embeddings=Embeddings.THREE)
  with pytest.raises(TaskMoeError, match=r"'three'.*ModelConfig.embeddings ="):
    refuse_what_t5_is_not(three)

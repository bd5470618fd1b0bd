"""A sub-network's parameters under the names and in the shapes of stock T5.

PyTorch keeps a matrix as `[out, in]`, we as `[in, out]`. T5 has one width for
all feed-forward networks of both stacks: narrower ones are padded with zeros,
which changes nothing, since `relu(0) = 0` and `gelu(0) * 0 = 0`. Training the
padded model leaves them zero: both factors of their gradients are.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, PyTree

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.format import layers_in_order, refuse_routing
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import Embeddings, ModelConfig
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID

Arrays = dict[str, Float[np.ndarray, "..."]]

_ATTENTION = {"query": "q", "key": "k", "value": "v", "out": "o"}
_FEED_FORWARD = {
  Activation.RELU: ("relu", {"wi": "wi", "wo": "wo"}),
  Activation.GATED_GELU: (
    "gated-gelu",
    {"wi": "wi_0", "wi_1": "wi_1", "wo": "wo"},
  ),
}


def refuse_what_t5_is_not(model: ModelConfig) -> None:
  """Refuses a model that has no place in stock T5.

  Raises:
    TaskMoeError: Which setting would make it possible.
  """
  refuse_routing(model, "Hugging Face's T5", "huggingface")
  if model.embeddings is not Embeddings.ONE:
    raise TaskMoeError(
      f"embeddings={str(model.embeddings)!r}: Hugging Face's T5 has one table"
      " for encoder and decoder. Train with ModelConfig.embeddings = 'one', or"
      " leave huggingface out of --formats."
    )


def t5_config(model: ModelConfig) -> dict[str, Any]:
  """The `config.json` of a dense model.

  Widths are those of the widest layer; `tie_word_embeddings` is written out,
  because T5 scales its logits by D^-0.5 only with it.
  """
  return {
    "architectures": ["T5ForConditionalGeneration"],
    "model_type": "t5",
    "vocab_size": model.vocab_size,
    "d_model": model.embed_dim,
    "d_kv": model.head_dim,
    "d_ff": _widest(model),
    "num_layers": model.encoder.num_layers,
    "num_decoder_layers": model.decoder.num_layers,
    "num_heads": model.num_heads,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "dropout_rate": model.dropout_rate,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": _FEED_FORWARD[model.activation][0],
    "is_encoder_decoder": True,
    "use_cache": True,
    "tie_word_embeddings": True,
    "pad_token_id": PAD_ID,
    "eos_token_id": EOS_ID,
    "decoder_start_token_id": PAD_ID,
    "dtype": "float32",
  }


def t5_arrays(params: PyTree, model: ModelConfig) -> Arrays:
  """A dense model's parameters as T5's, in float32.

  The one table is stored as `shared.weight` alone: encoder, decoder and softmax
  are tied to it.

  Args:
    params: Parameters of a scanned model: blocks have a leading axis.
    model: Its config; dense.
  """
  arrays = {"shared.weight": np.asarray(params["embedding"]["table"])}
  for name in ("encoder", "decoder"):
    stack, weights = getattr(model, name), params[name]
    arrays[
      f"{name}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    ] = np.asarray(weights["position_bias"]["table"])
    arrays[f"{name}.final_layer_norm.weight"] = np.asarray(
      weights["final_norm"]["scale"]
    )
    for index, layer in enumerate(layers_in_order(weights["blocks"], stack)):
      prefix = f"{name}.block.{index}.layer"
      for key, value in _layer_arrays(layer, model).items():
        arrays[f"{prefix}.{key}"] = value
  return {
    name: np.ascontiguousarray(value, np.float32)
    for name, value in arrays.items()
  }


def _widest(model: ModelConfig) -> int:
  return max(*model.encoder.mlp_dims, *model.decoder.mlp_dims)


def _layer_arrays(layer: Mapping[str, Any], model: ModelConfig) -> Arrays:
  """Arrays of one layer, whose parts T5 numbers."""
  arrays = {}
  parts = ["self_attention", "source_attention", "mlp"]
  parts = [part for part in parts if part in layer]
  for number, part in enumerate(parts):
    arrays[f"{number}.layer_norm.weight"] = layer[f"{part}_norm"]["scale"]
    if part == "mlp":
      found, kind = _feed_forward(layer[part], model), "DenseReluDense"
    else:
      found = _attention(layer[part], model)
      kind = "SelfAttention" if part == "self_attention" else "EncDecAttention"
    for name, value in found.items():
      arrays[f"{number}.{kind}.{name}.weight"] = value
  return arrays


def _attention(weights: Mapping[str, np.ndarray], model: ModelConfig) -> Arrays:
  arrays = {}
  for ours, theirs in _ATTENTION.items():
    if ours == "out":
      matrix = weights[ours].reshape(-1, model.embed_dim)  # [N·H, D]
    else:
      matrix = weights[ours].reshape(model.embed_dim, -1)  # [D, N·H]
    arrays[theirs] = matrix.T
  return arrays


def _feed_forward(
  weights: Mapping[str, np.ndarray], model: ModelConfig
) -> Arrays:
  arrays = {}
  for ours, theirs in _FEED_FORWARD[model.activation][1].items():
    matrix = weights[ours].T  # [F, D], and `wo` [D, F]
    missing = _widest(model) - weights["wo"].shape[0]
    if ours == "wo":
      arrays[theirs] = np.pad(matrix, ((0, 0), (0, missing)))
    else:
      arrays[theirs] = np.pad(matrix, ((0, missing), (0, 0)))
  return arrays

"""A sub-network's parameters in the layout of CTranslate2.

CTranslate2 reads sizes off the arrays, so that layers of different widths need
no padding. Its own loader of T5 is not used: it needs torch and a padded model,
and scales the logits of a model with three tables wrongly
(docs/design/engines.md).
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ctranslate2.specs import common_spec, transformer_spec
from jaxtyping import Float, PyTree

from taskmoe_jax.export.formats.format import layers_in_order
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import Embeddings, ModelConfig
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID, Vocabulary

_ACTIVATIONS = {
  Activation.RELU: common_spec.Activation.RELU,
  Activation.GATED_GELU: common_spec.Activation.GELUTanh,
}
_MAX_DISTANCE = 128
_EPSILON = 1e-6


def ctranslate2_spec(
  params: PyTree, model: ModelConfig, vocabulary: Vocabulary
) -> transformer_spec.TransformerSpec:
  """A dense model, ready to be quantised and saved.

  All arrays are copies: quantisation multiplies them in place.

  Args:
    params: Parameters of a scanned model: blocks have a leading axis.
    model: Its config; dense.
    vocabulary: Gives every id its name.
  """
  spec = transformer_spec.TransformerSpec(
    transformer_spec.TransformerEncoderSpec(
      model.encoder.num_layers, model.num_heads, **_kind(model)
    ),
    transformer_spec.TransformerDecoderSpec(
      model.decoder.num_layers, model.num_heads, **_kind(model)
    ),
  )
  _set_tables(spec, params, model)
  for name in ("encoder", "decoder"):
    _set_stack(getattr(spec, name), params[name], getattr(model, name))
  names = piece_names(vocabulary, model.vocab_size)
  spec.register_source_vocabulary(names)
  spec.register_target_vocabulary(names)
  # Decoding begins with padding, which is what it calls the begin of sentence.
  spec.config.bos_token = spec.config.decoder_start_token = names[PAD_ID]
  spec.config.eos_token = names[EOS_ID]
  spec.config.unk_token = names[UNK_ID]
  spec.config.add_source_eos = True
  spec.config.layer_norm_epsilon = _EPSILON
  spec.validate()
  return spec


def piece_names(vocabulary: Vocabulary, size: int) -> list[str]:
  """What CTranslate2 calls each id, of which a table may have more than V."""
  pieces = list(vocabulary.pieces)
  return [*pieces, *(f"<unused_{i}>" for i in range(len(pieces), size))]


def _kind(model: ModelConfig) -> dict[str, Any]:
  return {
    "activation": _ACTIVATIONS[model.activation],
    "ffn_glu": model.activation.num_inputs == 2,
    "relative_attention_bias": True,
    "rms_norm": True,
    "head_dim": model.head_dim,
  }


def _set_tables(
  spec: transformer_spec.TransformerSpec, params: PyTree, model: ModelConfig
) -> None:
  """Equal tables are stored once: saving finds them."""
  tables = ("embedding", "decoder_embedding", "softmax")
  if model.embeddings is Embeddings.ONE:
    tables = ("embedding",) * 3
  source, target, softmax = (_copied(params[name]["table"]) for name in tables)
  spec.encoder.embeddings[0].weight = source
  spec.decoder.embeddings.weight = target
  spec.decoder.projection.weight = softmax
  spec.encoder.scale_embeddings = spec.decoder.scale_embeddings = False
  spec.decoder.scale_outputs = np.float32(model.embed_dim**-0.5)


def _set_stack(stack: Any, params: PyTree, config: Any) -> None:
  stack.layer_norm.gamma = _copied(params["final_norm"]["scale"])
  bias = params["position_bias"]["table"]
  layers = layers_in_order(params["blocks"], config)
  for layer, weights in zip(stack.layer, layers, strict=True):
    _set_attention(layer.self_attention, weights, "self_attention", fused=3)
    # One table serves all layers; it too is stored once.
    layer.self_attention.relative_attention_bias = _copied(bias)
    layer.self_attention.relative_attention_max_distance = np.int32(
      _MAX_DISTANCE
    )
    if "source_attention" in weights:
      _set_attention(layer.attention, weights, "source_attention", fused=1)
    layer.ffn.layer_norm.gamma = _copied(weights["mlp_norm"]["scale"])
    layer.ffn.linear_0.weight = _copied(weights["mlp"]["wi"].T)
    layer.ffn.linear_1.weight = _copied(weights["mlp"]["wo"].T)
    if "wi_1" in weights["mlp"]:
      layer.ffn.linear_0_noact.weight = _copied(weights["mlp"]["wi_1"].T)


def _set_attention(
  attention: Any, weights: Mapping[str, Any], part: str, *, fused: int
) -> None:
  """Sets an attention, of which so many matrices are one with the queries'."""
  attention.layer_norm.gamma = _copied(weights[f"{part}_norm"]["scale"])
  attention.queries_scale = np.float32(1.0)
  width = weights[part]["query"].shape[0]
  rows = [
    weights[part][name].reshape(width, -1).T
    for name in ("query", "key", "value")
  ]
  attention.linear[0].weight = _copied(np.concatenate(rows[:fused]))
  if fused < len(rows):
    attention.linear[1].weight = _copied(np.concatenate(rows[fused:]))
  out = weights[part]["out"].reshape(-1, width).T
  attention.linear[-1].weight = _copied(out)


def _copied(value: Any) -> Float[np.ndarray, "..."]:
  return np.array(value, np.float32, order="C", copy=True)

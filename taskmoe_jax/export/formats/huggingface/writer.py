"""Writes a sub-network as a folder that Hugging Face's transformers opens.

  FOLDER/
    config.json             stock T5: no code of ours is needed, or fetched
    generation_config.json  a beam of four
    model.safetensors       float32, narrower layers padded with zeros
    tokenizer.json          see `tokenizer`
    tokenizer_config.json
    spiece.model            the same vocabulary, as SentencePiece has it
    README.md               a model card

To write it takes no torch. To check it takes transformers and torch, which are
imported by the check alone.
"""

import hashlib
import importlib.util
import json

from etils import epath
from safetensors import numpy as safetensors

from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.engine_check import SEARCH, check_engine
from taskmoe_jax.export.formats.format import (
  Expected,
  FormatCheck,
  refuse_mixtures,
)
from taskmoe_jax.export.formats.huggingface.card import model_card
from taskmoe_jax.export.formats.huggingface.tokenizer import (
  tokenizer_config,
  tokenizer_json,
)
from taskmoe_jax.export.formats.huggingface.weights import (
  refuse_what_t5_is_not,
  t5_arrays,
  t5_config,
)
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID

_WEIGHTS = "model.safetensors"
_MAX_NEW_TOKENS = 256


class HuggingFace:
  """The format `huggingface`."""

  def refuse(self, model: ModelConfig) -> None:
    """Refuses what stock T5 cannot represent; see `Format`."""
    refuse_what_t5_is_not(model)
    for engine in ("transformers", "torch"):
      if importlib.util.find_spec(engine) is None:
        raise TaskMoeError(
          f"the format huggingface is checked with {engine}, which is not"
          " installed: pip install 'taskmoe-jax[export]'. Or leave"
          " huggingface out of --formats."
        )

  def write(
    self, translator: Translator, folder: epath.Path, about: About
  ) -> None:
    """Writes the folder.

    Raises:
      TaskMoeError: The model is no dense T5, or its vocabulary is of a kind
        that tokenizers do not have.
    """
    refuse_what_t5_is_not(translator.model)
    refuse_mixtures(translator.model, "Hugging Face's T5", "huggingface")
    tokenizer = tokenizer_json(translator.vocabulary)
    arrays = t5_arrays(translator.params, translator.model)
    files = {
      _WEIGHTS: safetensors.save(arrays, metadata={"format": "pt"}),
      "config.json": _json(t5_config(translator.model)),
      "generation_config.json": _json(_generation_config()),
      "tokenizer.json": tokenizer.encode(),
      "tokenizer_config.json": _json(tokenizer_config(translator.vocabulary)),
      "spiece.model": translator.vocabulary.model,
    }
    for name, content in files.items():
      (folder / name).write_bytes(content)
    checksums = {
      name: hashlib.sha256(content).hexdigest()
      for name, content in files.items()
    }
    stored = sum(array.size for array in arrays.values())
    card = model_card(translator, about, stored, checksums)
    (folder / "README.md").write_text(card)

  def check(self, expected: Expected, folder: epath.Path) -> FormatCheck:
    """Opens the folder with transformers and compares it with the bundle."""
    from taskmoe_jax.export.formats.huggingface.engine import HuggingFaceEngine

    engine = HuggingFaceEngine(folder)
    engine.check_tokens(expected.bundle.vocabulary, expected.samples)
    return check_engine(expected, engine, exact=True)


HUGGING_FACE = HuggingFace()


def _generation_config() -> dict:
  """How `generate` searches unless told otherwise.

  Hugging Face divides a log-probability by length^alpha. Ours by default by
  ((5 + length) / 6)^0.6, of which no alpha gives the same; around 25 tokens
  0.5 favours length as much: 0.6 · 25 / (5 + 25).
  """
  return {
    "decoder_start_token_id": PAD_ID,
    "pad_token_id": PAD_ID,
    "eos_token_id": EOS_ID,
    "num_beams": SEARCH.size,
    "length_penalty": SEARCH.length_penalty,
    "early_stopping": False,
    "max_new_tokens": _MAX_NEW_TOKENS,
  }


def _json(values: dict) -> bytes:
  return (json.dumps(values, indent=2) + "\n").encode()

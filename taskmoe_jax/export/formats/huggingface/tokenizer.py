"""A SentencePiece model as a `tokenizer.json` of Hugging Face's tokenizers.

`<2de> text` gives the ids that `Vocabulary` gives the text, after the id of the
symbol, and with the end of sentence: in transformers 4.57 and 5. Their own
conversions of the SentencePiece file disagree about the space beside a symbol,
and one series cannot read what the other saves (docs/design/engines.md); a
file that spells out what is done is read alike by both, and by JavaScript and
Rust.

SentencePiece puts a space before a text and looks for pieces in all of it.
Three differences are made up for here:

- Before a text that begins with a symbol no space is put: the one after the
  symbol is the text's.
- A user-defined symbol is one token wherever it stands. It is split off first.
- Unlike SentencePiece, tokenizers find `</s>` and `<0x41>`, which are no text,
  in a text that has these letters. A split inside keeps the letters apart
  (and where a vocabulary has no bytes, two unknown letters beside it count as
  two).
"""

import base64
import json
import re
from typing import Any

from sentencepiece import sentencepiece_model_pb2 as sentencepiece_model

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID, Vocabulary

_Piece = sentencepiece_model.ModelProto.SentencePiece
_Trainer = sentencepiece_model.TrainerSpec
_SPACE = "▁"
_SYMBOL = re.compile(r"<2[^<>]+>")


def tokenizer_json(vocabulary: Vocabulary) -> str:
  """The `tokenizer.json` of a vocabulary.

  Raises:
    TaskMoeError: Its kind of SentencePiece model has none that is the same.
  """
  model = _parsed(vocabulary)
  special = [
    {
      "id": index,
      "content": model.pieces[index].piece,
      "single_word": False,
      "lstrip": False,
      "rstrip": False,
      "normalized": False,
      "special": True,
    }
    for index in (PAD_ID, EOS_ID, UNK_ID)
  ]
  return json.dumps(
    {
      "version": "1.0",
      "truncation": None,
      "padding": None,
      "added_tokens": special,
      "normalizer": _in_turn("normalizers", _normalizers(model)),
      "pre_tokenizer": _in_turn("pretokenizers", _splits(model)),
      "post_processor": _end_of_sentence(model.pieces[EOS_ID].piece),
      "decoder": _in_turn("decoders", _decoders(model)),
      "model": _unigram(model),
    },
    ensure_ascii=False,
    indent=1,
  )


def tokenizer_config(vocabulary: Vocabulary) -> dict[str, Any]:
  """The `tokenizer_config.json`, the part that transformers wants.

  `split_special_tokens` leaves `</s>` in a text what it is: four letters. T5
  takes no `token_type_ids`, which 4.57 would add to a batch.
  """
  pieces = _parsed(vocabulary).pieces
  return {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "pad_token": pieces[PAD_ID].piece,
    "eos_token": pieces[EOS_ID].piece,
    "unk_token": pieces[UNK_ID].piece,
    "clean_up_tokenization_spaces": False,
    "split_special_tokens": True,
    "padding_side": "right",
    "model_input_names": ["input_ids", "attention_mask"],
    "model_max_length": 1024,
  }


def _parsed(vocabulary: Vocabulary) -> Any:
  """The SentencePiece model, if tokenizers have something that is the same."""
  model = sentencepiece_model.ModelProto.FromString(vocabulary.model)
  kind, normalizer = model.trainer_spec.model_type, model.normalizer_spec
  if kind not in (_Trainer.UNIGRAM, _Trainer.CHAR):
    raise TaskMoeError(
      f"the vocabulary {vocabulary.origin!r} is a SentencePiece model of type"
      f" {_Trainer.ModelType.Name(kind).lower()}: accepted for huggingface are"
      " unigram and char. Train with another VOCABULARY, or leave huggingface"
      " out of --formats."
    )
  if (
    model.trainer_spec.treat_whitespace_as_suffix
    or not normalizer.add_dummy_prefix
    or not normalizer.escape_whitespaces
  ):
    raise TaskMoeError(
      f"the vocabulary {vocabulary.origin!r} puts no space before a text:"
      " accepted for huggingface are SentencePiece's add_dummy_prefix and"
      " escape_whitespaces as they usually are. Train with another VOCABULARY,"
      " or leave huggingface out of --formats."
    )
  return model


def _in_turn(kind: str, steps: list[dict[str, Any]]) -> dict[str, Any]:
  return {"type": "Sequence", kind: steps}


def _either(texts: list[str]) -> str:
  """A pattern of any of the texts, the longest that fits."""
  return "|".join(map(re.escape, sorted(texts, key=len, reverse=True)))


def _user_defined(model: Any) -> list[str]:
  return [p.piece for p in model.pieces if p.type == _Piece.USER_DEFINED]


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
  return {"type": "Replace", "pattern": pattern, "content": content}


def _normalizers(model: Any) -> list[dict[str, Any]]:
  steps: list[dict[str, Any]] = []
  spec = model.normalizer_spec
  if spec.precompiled_charsmap:
    rules = base64.b64encode(spec.precompiled_charsmap).decode()
    steps.append({"type": "Precompiled", "precompiled_charsmap": rules})
  if spec.remove_extra_whitespaces:
    steps.append(_replace({"Regex": r"\A +| +\z"}, ""))
    steps.append(_replace({"Regex": " {2,}"}, " "))
  steps.append({"type": "Prepend", "prepend": _SPACE})
  steps.append(_replace({"String": " "}, _SPACE))
  symbols = list(filter(_SYMBOL.fullmatch, _user_defined(model)))
  if symbols:
    before = rf"\A{_SPACE}+(?={_either(symbols)})"
    steps.append(_replace({"Regex": before}, ""))
  return steps


def _splits(model: Any) -> list[dict[str, Any]]:
  patterns = []
  if _user_defined(model):
    patterns.append(_either(_user_defined(model)))
  no_text = [
    piece.piece
    for piece in model.pieces
    if piece.type in (_Piece.CONTROL, _Piece.UNKNOWN)
  ]
  rest = [re.escape(piece[1:]) for piece in no_text if piece[:1] == "<"]
  if model.trainer_spec.byte_fallback:
    rest.append("0x[0-9A-F]{2}>")
  # An empty place, between `<` and what is behind it.
  patterns.append(f"(?<=<)(?={'|'.join(rest)})")
  return [
    {
      "type": "Split",
      "pattern": {"Regex": pattern},
      "behavior": "Isolated",
      "invert": False,
    }
    for pattern in patterns
  ]


def _end_of_sentence(piece: str) -> dict[str, Any]:
  def text(name: str) -> list[dict[str, Any]]:
    return [
      {"Sequence": {"id": name, "type_id": 0}},
      {"SpecialToken": {"id": piece, "type_id": 0}},
    ]

  return {
    "type": "TemplateProcessing",
    "single": text("A"),
    "pair": [*text("A"), *text("B")],
    "special_tokens": {
      piece: {"id": piece, "ids": [EOS_ID], "tokens": [piece]}
    },
  }


def _decoders(model: Any) -> list[dict[str, Any]]:
  steps = [_replace({"String": _SPACE}, " ")]
  if model.trainer_spec.byte_fallback:
    steps.append({"type": "ByteFallback"})
  # Fused first, so that only the text's own first space goes.
  strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
  return [*steps, {"type": "Fuse"}, strip]


def _unigram(model: Any) -> dict[str, Any]:
  """Pieces and scores.

  An unknown character costs 10 more than the lowest score, in SentencePiece of
  the ordinary pieces, here of all: the others get it too. User-defined symbols
  keep theirs, 0, which is above all sums.
  """
  lowest = min(p.score for p in model.pieces if p.type == _Piece.NORMAL)
  vocab = [
    [
      piece.piece,
      piece.score
      if piece.type in (_Piece.NORMAL, _Piece.USER_DEFINED)
      else lowest,
    ]
    for piece in model.pieces
  ]
  return {
    "type": "Unigram",
    "unk_id": UNK_ID,
    "vocab": vocab,
    "byte_fallback": model.trainer_spec.byte_fallback,
  }

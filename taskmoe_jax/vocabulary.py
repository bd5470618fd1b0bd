"""The joint SentencePiece vocabulary, with a symbol `<2xx>` for every target.

Only sentencepiece is needed here, so that a bundle translates without seqio or
TensorFlow. Ids 0, 1, 2 are pad, end of sentence and unknown, as in T5.
"""

import functools
import hashlib
import os
import types
from collections.abc import Sequence
from typing import Any

import numpy as np
import sentencepiece

from taskmoe_jax.errors import TaskMoeError

PAD_ID = 0
EOS_ID = 1
UNK_ID = 2


def target_symbol(language: str) -> str:
  """The source's first token, which tells the model what to translate into."""
  return f"<2{language}>"


def right_shift(tokens: Any, xp: types.ModuleType = np) -> Any:
  """What a decoder reads to predict these targets: padding, then all but one.

  Args:
    tokens: Targets `[rows, places]`.
    xp: The module of the array: `numpy`, or `jax.numpy` inside a program.
  """
  pad = xp.pad(tokens, ((0, 0), (1, 0)), constant_values=PAD_ID)
  return pad[:, :-1]


class Vocabulary:
  """Text to token ids and back.

  The target symbol is inserted by id, never through SentencePiece, because
  tokenizers of other engines disagree on how to split it
  (docs/design/engines.md).
  """

  def __init__(self, model: bytes, origin: str = "memory"):
    self.model = model
    self.origin = origin
    self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)

  @classmethod
  def load(cls, path: str | os.PathLike) -> "Vocabulary":
    """Reads a SentencePiece model, or says how to get one."""
    try:
      with open(path, "rb") as file:
        model = file.read()
      if not model:
        raise RuntimeError("the file is empty")
      return cls(model, str(path))
    except (OSError, RuntimeError) as error:
      reason = getattr(error, "strerror", None) or " ".join(str(error).split())
      raise TaskMoeError(
        f"no vocabulary at {str(path)!r} ({reason}). Make one with `taskmoe"
        " vocab --gin_file=...`, or set VOCABULARY to one that exists."
      ) from None

  def __len__(self) -> int:
    return self._processor.get_piece_size()

  @functools.cached_property
  def checksum(self) -> str:
    """SHA-256 of the SentencePiece model, which names the vocabulary."""
    return hashlib.sha256(self.model).hexdigest()

  @functools.cached_property
  def pieces(self) -> tuple[str, ...]:
    """The name of every id."""
    numbers = list(range(len(self)))
    return tuple(self._processor.id_to_piece(numbers))

  def encode(self, lines: Sequence[str]) -> list[list[int]]:
    """Token ids of each line, without target symbol or end of sentence."""
    return self._processor.encode(list(lines), num_threads=1)

  def decode(self, token_ids: Sequence[Sequence[int]]) -> list[str]:
    """Text of each sequence, cut before its first end of sentence.

    An id beyond the vocabulary counts as unknown: a model may have more rows
    in its table than there are pieces, and may, untrained, choose one.
    """
    sequences = []
    for ids in token_ids:
      ids = [int(i) if i < len(self) else UNK_ID for i in ids]
      end = ids.index(EOS_ID) if EOS_ID in ids else len(ids)
      sequences.append([i for i in ids[:end] if i != PAD_ID])
    # For an empty list SentencePiece returns an empty text, not an empty list.
    return self._processor.decode(sequences) if sequences else []

  def target_id(self, language: str) -> int:
    """Id of `<2xx>`; an error if the vocabulary was made without it."""
    symbol = target_symbol(language)
    index = self._processor.piece_to_id(symbol)
    if index == UNK_ID:
      raise TaskMoeError(
        f"the vocabulary {self.origin!r} has no symbol {symbol}: it was made"
        f" for other languages. Make one for this mixture with `taskmoe vocab`."
      )
    return index

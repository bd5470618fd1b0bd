"""Vocabularies of a few lines of text, trained as ours are."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import sentencepiece

from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID


def trained_pieces(
  lines: Iterable[str],
  *,
  vocab_size: int,
  symbols: Sequence[str] = (),
  **settings: Any,
) -> bytes:
  """A model of SentencePiece.

  Args:
    lines: The text.
    vocab_size: How many pieces, pad, eos, unk and symbols among them.
    symbols: Pieces that no text is cut into, from id 3 on.
    settings: Others of SentencePiece's, such as `model_type="char"`.
  """
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines),
    model_writer=model,
    vocab_size=vocab_size,
    user_defined_symbols=list(symbols),
    pad_id=PAD_ID,
    eos_id=EOS_ID,
    unk_id=UNK_ID,
    bos_id=-1,
    minloglevel=2,
    **settings,
  )
  return model.getvalue()

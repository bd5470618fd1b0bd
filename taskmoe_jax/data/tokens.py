"""From text to token ids, hundreds of sentences at a time."""

import itertools
from collections.abc import Sequence

import numpy as np

from taskmoe_jax.data.corpus import Text
from taskmoe_jax.data.packing import Ragged
from taskmoe_jax.vocabulary import Vocabulary


def read(text: Text, indices: Sequence[int]) -> list[tuple[str, str]]:
  """Reads many examples, at once where the text can."""
  if hasattr(text, "read"):
    return text.read(indices)
  return [text[index] for index in indices]


def tokenise(vocabulary: Vocabulary, lines: Sequence[str]) -> Ragged:
  """Token ids of each line, without target symbol or end of sentence."""
  ids = vocabulary.encode(lines)
  sizes = np.fromiter(map(len, ids), np.int64, len(ids))
  flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32, sizes.sum())
  return Ragged(flat, sizes)

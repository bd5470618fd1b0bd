"""What a pair's text is like: its lengths, and what a vocabulary lacks."""

import collections
import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import sentencepiece
from jaxtyping import Bool, Float, Int

from taskmoe_jax.data.corpus import Corpus
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import UNK_ID, Vocabulary

PERCENTILES = (50, 90, 99)
# The number of examples of an endless text to sample from.
_ENDLESS = 2**31


@dataclasses.dataclass(frozen=True)
class PairStatistics:
  """A pair's train part, as a sample of it shows.

  Attributes:
    pair: The pair.
    rate: The pair's share of the training examples; 0 if it is only evaluated.
    sizes: Number of examples of each part; None for endless ones.
    lengths: Tokens of each sampled source and target, with `<2xx>` and end.
    odd: For each side the number of unknown tokens, of byte tokens (for
      characters that the vocabulary lacks), and of all tokens.
    cleaning: Lines by what cleaning did, or None.
  """

  pair: str
  rate: float
  sizes: dict[str, int | None]
  lengths: Int[np.ndarray, "examples 2"]
  odd: Int[np.ndarray, "2 3"]
  cleaning: dict[str, int] | None

  def percentiles(self) -> Float[np.ndarray, "2 percentiles"]:
    """Percentiles of source and target lengths; NaN if nothing is sampled."""
    if not len(self.lengths):
      return np.full((2, len(PERCENTILES)), np.nan)
    return np.percentile(self.lengths, PERCENTILES, axis=0).T

  def too_long(self, source_length: int, target_length: int) -> float:
    """Share of the examples that fit into no row."""
    limits = np.array([source_length, target_length])
    if not len(self.lengths):
      return 0.0
    return float((self.lengths > limits).any(axis=1).mean())


def pair_statistics(
  corpus: Corpus,
  pair: str,
  vocabulary: Vocabulary,
  *,
  num_samples: int,
  seed: int,
) -> PairStatistics:
  """Measures a sample of a pair's training examples, or all if they are few.

  Args:
    corpus: The corpus that has the pair.
    pair: Such as `de-en`.
    vocabulary: The vocabulary to tokenise with.
    num_samples: The maximum number of examples to sample.
    seed: Seed of the sample.
  """
  sizes = {part: corpus.size(pair, part) for part in corpus.parts(pair)}
  lines: list[tuple[str, str]] = []
  report: Mapping[str, Any] = {}
  if "train" in sizes and num_samples:
    size = sizes["train"]
    generator = np.random.default_rng(seed)
    if size is not None and size <= num_samples:
      indices = np.arange(size)
    else:
      indices = generator.integers(size or _ENDLESS, size=num_samples)
    text = corpus.text(pair, "train")
    report = getattr(text, "report", {})
    lines = [text[int(index)] for index in indices]
  lengths = np.zeros((len(lines), 2), np.int64)
  odd = np.zeros((2, 3), np.int64)
  is_byte = _bytes_of(vocabulary)
  for side in (0, 1) if lines else ():
    tokens = vocabulary.encode([line[side] for line in lines])
    lengths[:, side] = [len(ids) for ids in tokens]
    flat = np.array([i for ids in tokens for i in ids], np.int64)
    odd[side] = ((flat == UNK_ID).sum(), is_byte[flat].sum(), len(flat))
  return PairStatistics(
    pair=pair,
    rate=float(corpus.rates.get(pair, 0.0)),
    sizes=sizes,
    lengths=lengths + np.array([2, 1]),
    odd=odd,
    cleaning=report.get("cleaning"),
  )


def odd_shares(
  statistics: Iterable[PairStatistics],
) -> dict[str, tuple[float, float]]:
  """Shares of unknown and of byte tokens in each language's text."""
  counts: dict[str, np.ndarray] = collections.defaultdict(
    lambda: np.zeros(3, np.int64)
  )
  for row in statistics:
    for side, language in enumerate(split_pair(row.pair)):
      counts[language] = counts[language] + row.odd[side]
  return {
    language: (float(unknown / total), float(byte / total))
    for language, (unknown, byte, total) in counts.items()
    if total
  }


def _bytes_of(vocabulary: Vocabulary) -> Bool[np.ndarray, "V"]:
  processor = sentencepiece.SentencePieceProcessor(model_proto=vocabulary.model)
  return np.array([processor.is_byte(i) for i in range(len(processor))])

"""A seqio mixture's text, tokenised when it is needed.

Tokenising is nearly all that reading live costs, so each sentence is tokenised
once and remembered until its row has been made, in batches of hundreds and in
flat arrays, not in lists of numbers.
"""

import collections
from collections.abc import Mapping, Sequence

import numpy as np
import seqio
from jaxtyping import Int

from taskmoe_jax.data.batches.packing import Ragged, tokenise
from taskmoe_jax.data.corpus import Corpus, Text, TrainExamples, read
from taskmoe_jax.data.seqio import sources
from taskmoe_jax.vocabulary import Vocabulary

Example = tuple[Int[np.ndarray, "_"], Int[np.ndarray, "_"]]

# Each block has to be tokenised, whether it will be used or not.
_BLOCKS_AHEAD = 4
# The latest plan, and the one before it, whose last rows may not be made yet.
_PLANS_REMEMBERED = 2


class LiveCorpus(Corpus):
  """The pairs of a seqio mixture; nothing is read before it is asked for."""

  def __init__(self, mixture: seqio.Mixture):
    self.name = mixture.name
    self.origin = f"live from seqio mixture {mixture.name!r}"
    self.vocabulary = None
    self._mixture = mixture
    self._sources = sources.parallel_sources(mixture)
    self.pairs = tuple(self._sources)

  @property
  def rates(self) -> Mapping[str, float]:
    return sources.rates(self._mixture)

  def parts(self, pair: str) -> tuple[str, ...]:
    return tuple(self._sources[pair].splits)

  def size(self, pair: str, part: str) -> int | None:
    return self._sources[pair].size(part)

  def text(self, pair: str, part: str) -> Text:
    return self._sources[pair].text(part)

  def columns(self, pair: str, part: str) -> tuple[Text, bool]:
    return self._sources[pair].columns(part)

  def train_examples(self, pair: str, vocabulary: Vocabulary) -> TrainExamples:
    return _LiveExamples(
      self.text(pair, "train"), self.size(pair, "train"), vocabulary
    )


class _LiveExamples(TrainExamples):
  """Tokenises what is requested, and remembers the most recent plans."""

  blocks_ahead = _BLOCKS_AHEAD

  def __init__(self, text: Text, size: int | None, vocabulary: Vocabulary):
    self.size = size
    self._text = text
    self._vocabulary = vocabulary
    self._plans: collections.deque[dict[int, Example]] = collections.deque(
      maxlen=_PLANS_REMEMBERED
    )

  def sizes(
    self, indices: Int[np.ndarray, "examples"]
  ) -> Int[np.ndarray, "examples 2"]:
    wanted = indices.tolist()
    plan = self._tokenise(list(dict.fromkeys(wanted)))
    self._plans.append(plan)
    sizes = [(len(plan[i][0]), len(plan[i][1])) for i in wanted]
    return np.array(sizes, np.int64).reshape(-1, 2)

  def tokens(
    self, indices: Int[np.ndarray, "examples"]
  ) -> tuple[Ragged, Ragged]:
    wanted = indices.tolist()
    known = collections.ChainMap(*self._plans)
    # Empty, unless far more is planned than is made.
    missing = self._tokenise([i for i in wanted if i not in known])
    found = [missing[i] if i in missing else known[i] for i in wanted]
    sources, targets = map(_join, zip(*found, strict=True))
    return sources, targets

  def _tokenise(self, indices: Sequence[int]) -> dict[int, Example]:
    if not indices:
      return {}
    columns = zip(*read(self._text, indices), strict=True)
    sources, targets = (tokenise(self._vocabulary, list(c)) for c in columns)
    return dict(
      zip(
        indices, zip(_split(sources), _split(targets), strict=True), strict=True
      )
    )


def _split(sequences: Ragged) -> list[Int[np.ndarray, "_"]]:
  ends = np.cumsum(sequences.sizes).tolist()
  return [
    sequences.ids[begin:end]
    for begin, end in zip([0, *ends], ends, strict=False)
  ]


def _join(sequences: Sequence[Int[np.ndarray, "_"]]) -> Ragged:
  sizes = np.fromiter(map(len, sequences), np.int64, len(sequences))
  return Ragged(np.concatenate(sequences), sizes)

"""What engines should find: a bundle's own scores and translations.

The bundle computes in float32 here, whatever it serves in.
"""

import jax

from taskmoe_jax.decoding.search import Beam, Greedy, Lengths
from taskmoe_jax.decoding.translations import Hypothesis
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export.verify import Samples, in_float32

# Longer translations are cut, in both alike. One length for all sentences and
# tasks, so that one program searches for all of them.
LONGEST = 64


class Expected:
  """A bundle and sentences for it; what it finds is found once for all engines.

  Attributes:
    bundle: As it serves.
    samples: Sentences with references.
  """

  def __init__(self, bundle: Translator, samples: Samples):
    self.bundle = bundle
    self._exact = in_float32(bundle)
    self.samples = samples
    self._scores: dict[str, list[float]] = {}
    self._translations: dict[tuple[str, Beam | Greedy], list[Hypothesis]] = {}

  def sides(self, pair: str) -> tuple[list[str], list[str]]:
    """Sources and references."""
    rows = self.samples[pair]
    return [source for source, _ in rows], [target for _, target in rows]

  @property
  def num_tokens(self) -> int:
    """Of all references, their ends included."""
    vocabulary = self.bundle.vocabulary
    return sum(
      len(ids) + 1
      for pair in self.samples
      for ids in vocabulary.encode(self.sides(pair)[1])
    )

  def scores(self, pair: str) -> list[float]:
    """Log-probability of each reference, end of sentence included."""
    if pair not in self._scores:
      with jax.default_matmul_precision("highest"):
        found = self._exact.score(*self.sides(pair), pair)
      self._scores[pair] = [score.total for score in found]
    return self._scores[pair]

  def translations(self, pair: str, search: Beam | Greedy) -> list[Hypothesis]:
    """The best hypothesis of each source."""
    key = (pair, search)
    if key not in self._translations:
      with jax.default_matmul_precision("highest"):
        found = self._exact.decode(
          self.sides(pair)[0],
          pair,
          batch_size=32,
          search=search,
          lengths=Lengths(max_target=LONGEST),
        )
      self._translations[key] = [best for best, *_ in found.n_best]
    return self._translations[key]

"""A written folder, run by JAX as the program in it does.

References are scored step by step, so that a check meets all three programs.
"""

from collections.abc import Sequence

import jax
import numpy as np
from etils import epath

from taskmoe_jax.decoding.search import Beam, Greedy
from taskmoe_jax.decoding.translations import Hypothesis
from taskmoe_jax.export.formats.stablehlo import runner
from taskmoe_jax.export.formats.stablehlo.runner import padded
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, target_symbol

_ROWS = 16


class StableHloEngine:
  """The programs of a folder."""

  def __init__(self, folder: epath.PathLike):
    self.version = f"jax {jax.__version__}"
    self._translator = runner.Translator(epath.Path(folder))

  def score(
    self, sources: Sequence[str], targets: Sequence[str], pair: str
  ) -> list[float]:
    """Log-probability of each target, end of sentence included."""
    encoded = self._sources(sources, pair)
    wanted = [
      [*ids, EOS_ID] for ids in self._translator.pieces.encode(list(targets))
    ]
    scores = []
    for first in range(0, len(encoded), _ROWS):
      chosen = slice(first, first + _ROWS)
      scores += self._scores(encoded[chosen], wanted[chosen])
    return scores

  def _scores(
    self, sources: Sequence[list[int]], targets: Sequence[list[int]]
  ) -> list[float]:
    wanted = padded(targets, _ROWS)
    places = np.zeros((_ROWS, 1, wanted.shape[1]), np.int32)
    memory = self._translator.start(padded(sources, _ROWS), places)
    last = np.full((_ROWS,), PAD_ID, np.int32)
    totals = np.zeros((_ROWS,), np.float64)
    for position in range(max(map(len, targets))):
      logits, memory = self._translator.step(
        last[:, None], memory, np.int32(position), places
      )
      found = np.asarray(jax.nn.log_softmax(logits[:, 0]))
      last = wanted[:, position]
      gains = found[np.arange(_ROWS), last]
      totals += np.where(last == PAD_ID, 0.0, gains)
    return totals[: len(targets)].tolist()

  def translate(
    self,
    sources: Sequence[str],
    pair: str,
    search: Beam | Greedy,
    max_target: int,
  ) -> list[Hypothesis]:
    """The greedy translation of each source, whatever the search."""
    encoded = self._sources(sources, pair)
    found, scores = self._translator.greedy(
      encoded, [max_target] * len(encoded), _ROWS
    )
    return [
      Hypothesis(self._translator.decode(ids), ids, score, ids[-1] == EOS_ID)
      for ids, score in zip(found, scores, strict=True)
    ]

  def _sources(self, texts: Sequence[str], pair: str) -> list[list[int]]:
    return self._translator.sources(texts, target_symbol(split_pair(pair)[1]))

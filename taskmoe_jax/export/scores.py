"""BLEU and chrF of models: mixture and bundle, before and after a change."""

from collections.abc import Callable, Mapping, Sequence

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.evaluate.scores import Scoring, score_pair
from taskmoe_jax.evaluate.texts import PairText

# `bleu` and `chrf` by pair.
ScoresOfPairs = dict[str, dict[str, float]]

_BATCH_SIZE = 64


def score_pairs(
  translator: Translator,
  texts: Mapping[str, PairText],
  *,
  metrics: Sequence[str] = ("bleu", "chrf"),
  progress: Callable[[int], None] = lambda number: None,
) -> ScoresOfPairs:
  """Translates greedily, and scores as `taskmoe evaluate` does.

  Args:
    translator: The mixture, or a bundle.
    texts: Sentences with references, by pair.
    metrics: Which scores.
    progress: Called with the number of sentences that have just been done.
  """
  scoring = Scoring(metrics=tuple(metrics), tokenizer="intl", bootstrap=0)
  found = {}
  for pair, text in texts.items():
    hypotheses = translator.decode(
      text.sources, pair, batch_size=_BATCH_SIZE, progress=progress
    ).texts
    scores = score_pair(pair, hypotheses, text.references, scoring)
    found[pair] = {name: score.score for name, score in scores.items()}
  return found


def bleu_by_pair(
  translator: Translator, texts: Mapping[str, PairText]
) -> dict[str, float]:
  """BLEU alone; see `score_pairs`."""
  found = score_pairs(translator, texts, metrics=("bleu",))
  return {pair: scores["bleu"] for pair, scores in found.items()}

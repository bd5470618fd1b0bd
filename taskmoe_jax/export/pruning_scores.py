"""BLEU and chrF of a model, before and after it is pruned."""

from collections.abc import Callable

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.evaluate.scores import Scoring, score_pair
from taskmoe_jax.export.verify import Samples

# `bleu` and `chrf` by pair.
ScoresOfPairs = dict[str, dict[str, float]]

_SCORING = Scoring(metrics=("bleu", "chrf"), tokenizer="intl", bootstrap=0)
_BATCH_SIZE = 64


def score_pairs(
  translator: Translator,
  text: Samples,
  *,
  progress: Callable[[int], None] = lambda number: None,
) -> ScoresOfPairs:
  """Translates greedily, and scores as `taskmoe evaluate` does.

  Args:
    translator: The mixture, or a bundle.
    text: Sentences with references, by pair.
    progress: Called with the number of sentences that have just been done.
  """
  found = {}
  for pair, rows in text.items():
    sources, references = zip(*rows, strict=True)
    hypotheses = translator.decode(
      sources, pair, batch_size=_BATCH_SIZE, progress=progress
    ).texts
    scores = score_pair(pair, hypotheses, [references], _SCORING)
    found[pair] = {name: score.score for name, score in scores.items()}
  return found

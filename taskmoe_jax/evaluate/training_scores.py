"""BLEU of the samples that a training run translates on its way."""

import statistics
from collections.abc import Mapping, Sequence

from sacrebleu.metrics import BLEU

from taskmoe_jax.evaluate.scores import bleu_tokenizer, one_line
from taskmoe_jax.task_space import split_pair


def sample_scores(
  translations: Mapping[str, tuple[Sequence[str], Sequence[str]]],
) -> dict[str, float]:
  """Corpus BLEU of each pair, and its averages, by the names of metrics.

  `bleu/pair/de-en`; `bleu`, the average in which every pair counts the same
  (the paper's Table 1), and `bleu/xx-en` and `bleu/en-xx`, where there are such
  pairs. Of a few sentences a pair: a curve, and no result to report.

  Args:
    translations: Of each pair the hypotheses and their references.
  """
  scores, groups = {}, {"bleu": [], "bleu/xx-en": [], "bleu/en-xx": []}
  for pair, (hypotheses, references) in translations.items():
    source, target = split_pair(pair)
    metric = BLEU(tokenize=bleu_tokenizer(target))
    score = metric.corpus_score(
      [one_line(text) for text in hypotheses],
      [[one_line(text) for text in references]],
    ).score
    scores[f"bleu/pair/{pair}"] = score
    groups["bleu"].append(score)
    if target == "en":
      groups["bleu/xx-en"].append(score)
    elif source == "en":
      groups["bleu/en-xx"].append(score)
  return scores | {
    name: statistics.fmean(found) for name, found in groups.items() if found
  }

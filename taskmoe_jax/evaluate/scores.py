"""BLEU and chrF of a pair, and their averages, as the paper reports them.

Everything is counted by sacrebleu, and its signature is kept beside every
score, so that anyone can repeat it with sacrebleu's own command line.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from sacrebleu.metrics import BLEU, CHRF

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.task_space import split_pair


@dataclasses.dataclass(frozen=True)
class PairScore:
  """The scores of one pair, from 0 to 100, and how they were counted."""

  pair: str
  examples: int
  bleu: float
  chrf: float
  bleu_signature: str
  chrf_signature: str


def one_line(text: str) -> str:
  """Joins the lines of a text with spaces.

  A model may write a line break into a translation, which would shift every
  later line of a file against its references. Line breaks are whitespace to
  both metrics, so this changes no score. What `str.splitlines` takes for a
  line break counts as one, not only `\\n`: readers of the files differ.
  """
  return " ".join(text.splitlines())


def bleu_tokenizer(language: str) -> str:
  """Names sacrebleu's tokenizer for references in this language.

  The paper's choice (signature in its section 4.1): `zh` for Chinese, and
  `intl` for all others, where sacrebleu itself would take `13a`.
  """
  return "zh" if language.split("_")[0] == "zh" else "intl"


def score_pair(
  pair: str, hypotheses: Sequence[str], references: Sequence[str]
) -> PairScore:
  """Scores the translations of one pair by corpus BLEU and chrF.

  Raises:
    TaskMoeError: There is nothing to score, or the two lists differ in length.
  """
  if not references or len(hypotheses) != len(references):
    raise TaskMoeError(
      f"cannot score {pair}: {len(hypotheses)} hypotheses for"
      f" {len(references)} references. Give one hypothesis for each reference,"
      " and at least one."
    )
  hypotheses = [one_line(text) for text in hypotheses]
  references = [one_line(text) for text in references]
  bleu = BLEU(tokenize=bleu_tokenizer(split_pair(pair)[1]))
  chrf = CHRF()
  return PairScore(
    pair=pair,
    examples=len(references),
    bleu=bleu.corpus_score(hypotheses, [references]).score,
    chrf=chrf.corpus_score(hypotheses, [references]).score,
    bleu_signature=str(bleu.get_signature()),
    chrf_signature=str(chrf.get_signature()),
  )


def averages(
  scores: Iterable[PairScore],
) -> dict[str, dict[str, int | float]]:
  """Averages the scores of all pairs, into English and out of English.

  Every pair counts the same, whatever its number of sentences, as in the
  paper's Table 1. Pairs without English, such as its zero-shot `de-fr`, count
  in `all` only.

  Returns:
    `pairs`, `bleu` and `chrf` of each of the groups `xx-en`, `en-xx` and `all`
    that has any pair.
  """
  groups: dict[str, list[PairScore]] = {"xx-en": [], "en-xx": [], "all": []}
  for score in scores:
    source, target = split_pair(score.pair)
    if target == "en":
      groups["xx-en"].append(score)
    elif source == "en":
      groups["en-xx"].append(score)
    groups["all"].append(score)
  return {
    name: {
      "pairs": len(group),
      "bleu": statistics.fmean(score.bleu for score in group),
      "chrf": statistics.fmean(score.chrf for score in group),
    }
    for name, group in groups.items()
    if group
  }

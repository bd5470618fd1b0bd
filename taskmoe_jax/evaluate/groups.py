"""The groups of pairs whose scores are averaged, as in the paper's Table 1.

Its "Average" is over all 32 directions, the two zero-shot ones among them; so
are its high-resource ones. What is the same without them stands beside it.
"""

import statistics
from collections.abc import Mapping, Sequence

from sacrebleu.metrics import BLEU

from taskmoe_jax.data.corpus import Corpus
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.metrics import bleu_tokenizer
from taskmoe_jax.evaluate.scores import one_line
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
  scores = {}
  for pair, (hypotheses, references) in translations.items():
    metric = BLEU(tokenize=bleu_tokenizer(split_pair(pair)[1]))
    scores[pair] = metric.corpus_score(
      [one_line(text) for text in hypotheses],
      [[one_line(text) for text in references]],
    ).score
  groups = groups_of(list(scores), trained=list(scores), high_resource=None)
  names = {"all": "bleu", "xx-en": "bleu/xx-en", "en-xx": "bleu/en-xx"}
  return {
    **{f"bleu/pair/{pair}": score for pair, score in scores.items()},
    **{names[group]: average(scores, pairs) for group, pairs in groups.items()},
  }


def average(
  scores: Mapping[str, float], pairs: Sequence[str] | None = None
) -> float:
  """The average over some pairs, in which every pair counts the same.

  Whatever its number of sentences, as in the paper's Table 1. Over all that
  have a score, unless pairs are given.
  """
  return statistics.fmean(scores[pair] for pair in pairs or scores)


# In the order of the tables.
GROUPS = {
  "all": "average",
  "supervised": "average without zero-shot",
  "xx-en": "average xx→en",
  "en-xx": "average en→xx",
  "high": "average high-resource",
  "high-supervised": "average high-resource without zero-shot",
  "low": "average low-resource",
  "low-supervised": "average low-resource without zero-shot",
  "zero-shot": "average zero-shot",
}


def groups_of(
  pairs: Sequence[str],
  *,
  trained: Sequence[str],
  high_resource: Sequence[str] | None,
) -> dict[str, list[str]]:
  """Sorts pairs into groups; one that has no pair is left out.

  A pair without English, such as `de-fr`, is of no direction. A pair is
  high-resource if all of its languages but English are.

  Args:
    pairs: What was evaluated.
    trained: The pairs there was training text for; all others are zero-shot.
    high_resource: The languages with much training text; None if that is not
      known, and then nothing is high- or low-resource.
  """
  unseen = [pair for pair in pairs if pair not in trained]
  high = []
  if high_resource is not None:
    high = [p for p in pairs if _languages(p) <= set(high_resource)]
  low = [p for p in pairs if high_resource is not None and p not in high]
  found = {
    "all": list(pairs),
    "xx-en": [p for p in pairs if split_pair(p)[1] == "en"],
    "en-xx": [p for p in pairs if split_pair(p)[0] == "en"],
    "high": high,
    "low": low,
    "zero-shot": unseen,
  }
  if unseen:
    for name, source in (
      ("supervised", "all"),
      ("high-supervised", "high"),
      ("low-supervised", "low"),
    ):
      seen = [pair for pair in found[source] if pair not in unseen]
      if len(seen) < len(found[source]):
        found[name] = seen
  return {name: found[name] for name in GROUPS if found.get(name)}


def trained_pairs(corpus: Corpus) -> list[str]:
  """The pairs of a mixture that have a train part."""
  return [pair for pair in corpus.pairs if "train" in corpus.parts(pair)]


def high_resource_languages(
  corpus: Corpus, more_than: int
) -> tuple[list[str] | None, list[str]]:
  """The languages with more than so many pairs of training text.

  What counts is a language's largest train part: the paper's `de-fr`, of which
  it trains on nothing, is high-resource, because German and French are.

  Returns:
    The languages, or None if the text is endless or not here; and notes.
  """
  sizes: dict[str, int] = {}
  try:
    for pair in trained_pairs(corpus):
      size = corpus.size(pair, "train")
      if size is None:
        return None, []
      for language in _languages(pair):
        sizes[language] = max(size, sizes.get(language, 0))
  except TaskMoeError as error:
    return None, [
      f"no averages by resources: {error} Or name the languages with much"
      " training text: --high_resource=de,fr."
    ]
  return [name for name, size in sizes.items() if size > more_than], []


def check_languages(named: Sequence[str], pairs: Sequence[str]) -> None:
  """Refuses languages that no pair has, such as misspelt ones.

  Raises:
    TaskMoeError: There are some.
  """
  known = sorted({language for pair in pairs for language in split_pair(pair)})
  if unknown := [name for name in named if name not in known]:
    raise TaskMoeError(
      f"high-resource language {', '.join(map(repr, unknown))} is in no pair of"
      f" the model or the text: accepted are {', '.join(known)}. Set"
      " --high_resource."
    )


def _languages(pair: str) -> set[str]:
  languages = set(split_pair(pair))
  return languages - {"en"} or languages

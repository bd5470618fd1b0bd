"""Compares an engine with the bundle that it serves, on real sentences.

Two questions, by which a mistake anywhere shows. How likely does the engine
find the references? That is the weights, the tokens and the arithmetic. What
does it find by itself? That is the search and its settings.
"""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import numpy as np

from taskmoe_jax.decoding.search import Beam, Greedy, Normalization
from taskmoe_jax.decoding.translations import Hypothesis
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.format import LONGEST, Expected, FormatCheck

# Largest difference of two log-probabilities of a sentence that is rounding, in
# float32. Two hypotheses whose scores are no further apart are a tie.
TOLERANCE = 1e-3
# What the engines do by convention, so that the same hypotheses are searched.
SEARCH = Beam(size=4, length_penalty=0.5, normalization=Normalization.POWER)


@runtime_checkable
class Engine(Protocol):
  """A format, loaded by the program that runs it.

  Attributes:
    version: Name and version of the program: `ctranslate2 4.8.5`.
  """

  version: str

  def score(
    self, sources: Sequence[str], targets: Sequence[str], pair: str
  ) -> Sequence[float]:
    """Log-probability of each target, end of sentence included."""

  def translate(
    self,
    sources: Sequence[str],
    pair: str,
    search: Beam | Greedy,
    max_target: int,
  ) -> Sequence[Hypothesis]:
    """The best hypothesis of each source; its token ids and score count.

    Token ids include the end of sentence, as `Hypothesis` says.
    """


@dataclasses.dataclass(frozen=True)
class Comparison:
  """How an engine's translations compare to the bundle's.

  Attributes:
    sentences: How many there were.
    identical: How many hypotheses have the same tokens.
    ties: How many others have a score that is no worse, but for rounding.
    worse: The sources of the rest.
  """

  sentences: int
  identical: int
  ties: int
  worse: tuple[str, ...]


def check_engine(
  expected: Expected,
  engine: Engine,
  *,
  exact: bool,
  most_per_token: float | None = None,
  search: Beam | Greedy = SEARCH,
) -> FormatCheck:
  """Compares scores of references, and translations.

  Args:
    expected: The bundle, with sentences.
    engine: What runs the format.
    exact: Whether the format keeps float32. If so, a difference is an error.
    most_per_token: Of a format that does not: the largest difference of the
      log-probability of a token, on the average over all references, that
      rounding can explain; any, if not given.
    search: What the engine does by convention.

  Raises:
    TaskMoeError: Scores differ by more than `TOLERANCE`, or a translation is
      another and worse; or, of a format that is not exact, scores by more than
      `most_per_token`.
  """
  differences, sentences, identical = [], 0, 0
  worse: list[str] = []
  samples = expected.samples
  with jax.default_matmul_precision("highest"):
    for pair in samples:
      differences.append(score_differences(expected, engine, pair))
      found = compare_translations(expected, engine, pair, search)
      sentences += found.sentences
      identical += found.identical
      worse += found.worse
  # Unlike Python's max, NumPy's does not lose what is no number.
  together = np.concatenate(differences)
  difference = float(np.max(together))
  per_token = float(np.sum(together)) / expected.num_tokens
  if most_per_token is not None and not per_token <= most_per_token:
    raise TaskMoeError(
      f"{engine.version} does not compute what the bundle for"
      f" {', '.join(samples)} does: log-probabilities of references differ by"
      f" {per_token:.1e} a token, of which rounding explains {most_per_token}."
      " Nothing was written. Leave the format out of --formats."
    )
  if exact and (not difference <= TOLERANCE or worse):
    examples = f", such as that of {worse[0]!r}" if worse else ""
    raise TaskMoeError(
      f"{engine.version} does not compute what the bundle for"
      f" {', '.join(samples)} does: scores of references differ by up to"
      f" {difference:.1e} (at most {TOLERANCE:.0e} is rounding), and"
      f" {len(worse)} of {sentences} translations are worse{examples}. Nothing"
      " was written. Leave the format out of --formats."
    )
  return FormatCheck(engine.version, sentences, difference, identical, exact)


def score_differences(
  expected: Expected, engine: Engine, pair: str
) -> np.ndarray:
  """Absolute differences of the log-probabilities of references."""
  theirs = engine.score(*expected.sides(pair), pair)
  return np.abs(np.subtract(expected.scores(pair), theirs))


def compare_translations(
  expected: Expected, engine: Engine, pair: str, search: Beam | Greedy
) -> Comparison:
  """Counts the translations that are the same, tied, and worse.

  Searching, two continuations that are equally likely but for rounding may
  come in either order. So another hypothesis is no mistake of the engine's
  unless its score, by the same rule, is worse.
  """
  sources, _ = expected.sides(pair)
  ours = expected.translations(pair, search)
  theirs = engine.translate(sources, pair, search, LONGEST)
  identical, ties, worse = 0, 0, []
  for source, our, their in zip(sources, ours, theirs, strict=True):
    if list(our.token_ids) == list(their.token_ids):
      identical += 1
    elif their.score >= our.score - TOLERANCE:
      ties += 1
    else:
      worse.append(source)
  return Comparison(len(sources), identical, ties, tuple(worse))

"""How an engine is compared with a bundle: engines that are a little wrong."""

import dataclasses

import numpy as np
import pytest

from taskmoe_jax.decoding.search import GREEDY, Lengths
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.engine_check import (
  SEARCH,
  TOLERANCE,
  check_engine,
  compare_translations,
)
from taskmoe_jax.export.formats.format import Expected

ROWS = [("abc", "cba"), ("hg fe", "efgh"), ("hh a", "ab")]


@pytest.fixture(scope="module")
def bundle(sub_network):
  return sub_network()


class Ours:
  """An engine that is the bundle, but for what is added to its scores.

  Attributes:
    change: Added to the log-probability of the second reference.
    other: By how much the score of the third translation, which has other
      tokens then, is better.
  """

  version = "ours 1.0"

  def __init__(self, bundle, change=0.0, other=None):
    self.bundle, self.change, self.other = bundle, change, other

  def score(self, sources, targets, pair):
    found = [s.total for s in self.bundle.score(sources, targets, pair)]
    return np.add(found, [0, self.change, 0])

  def translate(self, sources, pair, search, max_target):
    found = self.bundle.decode(
      sources,
      pair,
      batch_size=32,
      search=search,
      lengths=Lengths(max_target=max_target),
    )
    best = [hypotheses[0] for hypotheses in found.n_best]
    if self.other is not None:
      best[2] = dataclasses.replace(
        best[2],
        token_ids=[3, *best[2].token_ids],
        score=best[2].score + self.other,
      )
    return best


@pytest.fixture(scope="module")
def expected(bundle):
  return Expected(bundle, {"en-de": ROWS})


def check(expected, engine, **settings):
  settings = {"exact": True, **settings}
  return check_engine(expected, engine, **settings)


@pytest.mark.slow
def test_what_is_expected_is_found_once(expected):
  assert expected.scores("en-de") is expected.scores("en-de")
  beam, greedy = (expected.translations("en-de", s) for s in (SEARCH, GREEDY))
  assert expected.translations("en-de", SEARCH) is beam
  # Each search has its own.
  assert [x.score for x in beam] != [x.score for x in greedy]


def test_the_same(bundle, expected):
  found = check(expected, Ours(bundle))
  assert dataclasses.astuple(found) == ("ours 1.0", 3, 0.0, 3, True)


@pytest.mark.parametrize("sign", [1, -1])
def test_scores(bundle, expected, sign):
  found = check(expected, Ours(bundle, sign * TOLERANCE * 0.8))
  assert found.max_score_difference == pytest.approx(TOLERANCE * 0.8, rel=0.01)
  with pytest.raises(
    TaskMoeError,
    match=r"ours 1.0 does not compute.*differ by up to 1.2e-03.* and 0 of 3",
  ):
    check(expected, Ours(bundle, sign * TOLERANCE * 1.2))
  with pytest.raises(TaskMoeError, match="differ by up to nan"):
    check(expected, Ours(bundle, np.nan))


@pytest.mark.slow
def test_ties(bundle, expected):
  for other in (TOLERANCE * -0.8, 0.0, 1.0):
    found = check(expected, Ours(bundle, other=other))
    assert found.identical_translations == 2
  with pytest.raises(
    TaskMoeError, match=r"1 of 3 translations are worse, such as that of 'hh a'"
  ):
    check(expected, Ours(bundle, other=TOLERANCE * -1.2))
  found = compare_translations(
    expected, Ours(bundle, other=0.1), "en-de", SEARCH
  )
  assert dataclasses.astuple(found) == (3, 2, 1, ())


def test_what_is_not_exact_is_reported(bundle, expected):
  engine = Ours(bundle, 2.4, other=-2.0)
  found = check(expected, engine, exact=False, most_per_token=0.21)
  assert found.max_score_difference == pytest.approx(2.4, rel=0.01)
  assert found.identical_translations == 2
  # The three references have 4 + 5 + 3 tokens, ends included, and spaces.
  with pytest.raises(TaskMoeError, match=r"differ by 1.\de-01 a token.* 0.1\."):
    check(expected, engine, exact=False, most_per_token=0.1)

import pytest

from taskmoe_jax.data.corpus import examples, samples
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.errors import TaskMoeError

_TEXT = [("one", "eins"), ("two", "zwei"), ("three", "drei"), ("four", "vier")]


class EndlessText:
  def __getitem__(self, index):
    return f"a{index}", f"b{index}"


@pytest.fixture
def scored(mixture_of):
  return open_corpus(
    mixture_of(
      {
        "en-de": {"test": _TEXT, "validation": EndlessText()},
        "de-en": {"test": []},
      }
    )
  )


@pytest.mark.parametrize(("limit", "count"), [(None, 4), (3, 3), (9, 4)])
def test_examples_are_the_first_ones_untouched(scored, limit, count):
  found = examples(scored, part="test", pair="en-de", limit=limit)
  assert found == _TEXT[:count]


def test_examples_of_endless_text(scored):
  found = examples(scored, part="validation", pair="en-de", limit=2)
  assert found == [("a0", "b0"), ("a1", "b1")]


@pytest.mark.parametrize(
  ("part", "pair", "limit", "message"),
  [
    ("test", "en-fr", 3, "unknown pair 'en-fr': accepted are .* Set --pairs"),
    ("dev", "en-de", 3, "unknown part 'dev': .* train, validation, test"),
    ("train", "en-de", 3, "unknown part of en-de 'train': accepted are test"),
    ("test", "de-en", 3, "the test part of de-en .* is empty"),
    ("test", "en-de", 0, "0 examples are too few: at least 1. Set --examples"),
    ("validation", "en-de", None, "en-de is endless: .* Set --examples"),
  ],
)
def test_examples_that_there_are_not(scored, part, pair, limit, message):
  with pytest.raises(TaskMoeError, match=message):
    examples(scored, part=part, pair=pair, limit=limit)


def test_samples_are_unseen_where_they_can_be(mixture_of):
  text = {part: [(part, part)] for part in ("train", "validation", "test")}
  mixture = mixture_of(
    {
      "en-de": text,
      "de-en": {"train": text["train"], "test": text["test"]},
      "en-fr": {"train": text["train"], "validation": []},
    }
  )
  assert samples(open_corpus(mixture), 2) == {
    "de-en": [("test", "test")],
    "en-de": [("validation", "validation")],
    "en-fr": [("train", "train")],
  }

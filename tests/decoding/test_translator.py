import random

import jax
import numpy as np
import pytest

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.task_space import TaskBy, TaskSpace
from taskmoe_jax.vocabulary import EOS_ID

pytestmark = pytest.mark.slow

SPACE = TaskSpace(
  ("en", "de", "fr"), ("en-de", "de-en", "en-fr", "fr-en"), TaskBy.TARGET
)
# The longest has 37 letters, and so falls into the bucket of 64 tokens.
LINES = [
  "the cat",
  "hat",
  "",
  "and the cat and the hat and the cat and the hat",
  "a tat",
  "   ",
  "the hat and the cat",
]


@pytest.fixture(scope="module")
def translator(config, params, vocabulary):
  return Translator(config, params, SPACE, vocabulary)


@pytest.fixture(scope="module")
def expected(translator):
  """All in one batch of eight rows."""
  return translator.decode(LINES, "en-de", batch_size=8)


@pytest.mark.expensive("it compiles models")
def test_empty_lines_have_empty_translations(expected):
  for i in (2, 5):
    assert expected.texts[i] == ""
    assert expected.token_ids[i] == []
    assert expected.finished[i]
  for i in (0, 1, 3, 4, 6):
    assert expected.token_ids[i]


def test_finished_is_whether_a_translation_ended(expected):
  """The model is drawn so that both occur; twice its bucket is the most."""
  assert set(expected.finished) == {True, False}
  for ids, finished in zip(expected.token_ids, expected.finished, strict=True):
    if ids:
      assert (ids[-1] == EOS_ID) == finished
      assert EOS_ID not in ids[:-1]
      assert len(ids) <= 128


def test_texts_are_of_the_tokens(translator, expected, vocabulary):
  assert expected.texts == vocabulary.decode(expected.token_ids)
  texts = translator.translate(LINES, "en-de", batch_size=8)
  assert texts == expected.texts


@pytest.mark.slow
def test_order_and_neighbours_do_not_matter(translator, expected):
  order = list(range(len(LINES)))
  random.Random(3).shuffle(order)
  found = translator.decode([LINES[i] for i in order], "en-de", batch_size=8)
  assert found.token_ids == [expected.token_ids[i] for i in order]
  alone = translator.decode([LINES[6]], "en-de", batch_size=8)
  assert alone.token_ids == [expected.token_ids[6]]


@pytest.mark.expensive("it compiles models")
def test_batch_size_does_not_matter(translator, expected):
  """Three batches, the last of which is filled up with padding."""
  found = translator.decode(LINES, "en-de", batch_size=3)
  assert found.token_ids == expected.token_ids
  np.testing.assert_allclose(found.scores, expected.scores, atol=1e-4)


@pytest.mark.expensive("it compiles models")
def test_devices_do_not_matter(config, params, vocabulary, expected):
  """Two devices round three rows up to four; without the long line."""
  shape = MeshShape(data=2, expert=1, model=1)
  parts = Partitioning(make_mesh(shape, jax.devices()[:2]))
  translator = Translator(
    config,
    jax.device_put(params, parts.replicated),
    SPACE,
    vocabulary,
    partitioning=parts,
  )
  found = translator.decode(LINES[:3] + LINES[4:], "en-de", batch_size=3)
  assert found.token_ids == expected.token_ids[:3] + expected.token_ids[4:]


@pytest.mark.slow
def test_the_task_and_the_symbol_are_the_pairs(translator, expected):
  other = translator.decode(LINES, "en-fr", batch_size=8)
  assert other.token_ids != expected.token_ids
  # The source language is neither: unseen, and the same.
  unseen = translator.decode(LINES, "fr-de", batch_size=8)
  assert unseen.token_ids == expected.token_ids


def test_progress_counts_every_line(translator):
  counts = []
  translator.decode(LINES, "en-de", batch_size=3, progress=counts.append)
  # Two empty lines; the long one; three and one of the short ones.
  assert counts == [2, 1, 3, 1]


def test_nothing_to_translate(translator):
  assert translator.translate([], "en-de") == []
  assert translator.translate(["", " "], "en-de") == ["", ""]


@pytest.mark.parametrize(
  ("languages", "pairs", "task_by"),
  [
    (("en", "de", "fr"), ("fr-de",), TaskBy.PAIR),
    # Both are of one task, and ask for one target symbol.
    (("en", "fr", "de"), ("en-de", "fr-de"), TaskBy.TARGET),
  ],
)
def test_a_pair_that_goes_without_saying(
  languages, pairs, task_by, config, params, vocabulary
):
  space = TaskSpace(languages, pairs, task_by)
  translator = Translator(config, params, space, vocabulary)
  assert translator.translate([""]) == [""]


@pytest.mark.parametrize(
  ("space", "pair", "message"),
  [
    (
      SPACE,
      None,
      "which pair to translate is not clear: accepted are en-de, de-en, en-fr,"
      " fr-en. Set --pair.",
    ),
    (
      # One task, but two target symbols.
      TaskSpace(("en", "de", "fr"), ("en-de", "en-fr"), TaskBy.SOURCE),
      None,
      "which pair to translate is not clear: accepted are en-de, en-fr. Set"
      " --pair.",
    ),
    (
      SPACE,
      "ende",
      "'ende' is not a pair: write source and target language with one dash,"
      " such as 'de-en'.",
    ),
    (SPACE, "en-zh", "unknown task 'zh': accepted are en, de, fr."),
    (SPACE, "zh-en", "unknown language 'zh': accepted are en, de, fr."),
    (
      TaskSpace(("en", "de", "fr"), ("en-de", "fr-en"), TaskBy.PAIR),
      "de-fr",
      "unknown task 'de-fr': accepted are en-de, fr-en.",
    ),
  ],
)
def test_pairs_that_cannot_be(space, pair, message, config, params, vocabulary):
  translator = Translator(config, params, space, vocabulary)
  with pytest.raises(TaskMoeError) as error:
    translator.translate(["a"], pair)
  assert str(error.value) == message


def test_a_batch_has_rows(translator):
  with pytest.raises(
    TaskMoeError, match=r"^batch_size=0 is not at least 1. Set --batch_size.$"
  ):
    translator.translate(["a"], "en-de", batch_size=0)


@pytest.mark.slow
def test_a_vocabulary_of_other_languages(config, params, vocabulary):
  space = TaskSpace(("en", "fi"), ("en-fi",), TaskBy.TARGET)
  translator = Translator(config, params, space, vocabulary)
  with pytest.raises(
    TaskMoeError, match=r"^the vocabulary 'memory' has no symbol <2fi>"
  ):
    translator.translate(["a"])

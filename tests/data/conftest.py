"""A vocabulary one can read, and mixtures of texts written in the test."""

import functools

import numpy as np
import pytest

from taskmoe_jax.data.corpus import Corpus, TrainExamples
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.vocabulary import Vocabulary


class LetterVocabulary(Vocabulary):
  """One token a letter: a is 10, b is 11 and so on; `<2en>` is 3."""

  def __init__(self):
    self.origin = "letters"

  def encode(self, lines):
    return [[10 + ord(letter) - ord("a") for letter in line] for line in lines]

  def target_id(self, language):
    return {"en": 3, "de": 4, "fr": 5, "fi": 6}[language]


class Lengths(TrainExamples):
  """Examples of given lengths; endless ones begin again."""

  def __init__(self, sizes, *, endless=False, blocks_ahead=8):
    self._sizes = np.array(sizes)
    self.size = None if endless else len(sizes)
    self.blocks_ahead = blocks_ahead
    self.asked = 0

  def sizes(self, indices):
    self.asked += len(indices)
    return self._sizes[indices % len(self._sizes)]

  def tokens(self, indices):
    raise AssertionError("plans need no tokens")


class LengthsCorpus(Corpus):
  """Pairs of which only the lengths are known: enough to plan batches."""

  name = "lengths"
  origin = "a test"
  vocabulary = None

  def __init__(self, rates, lengths):
    self._rates = rates
    self.pairs = tuple(rates)
    self._lengths = lengths

  @property
  def rates(self):
    return self._rates

  def parts(self, pair):
    return ("train",)

  def size(self, pair, part):
    return self._lengths[pair].size

  def text(self, pair, part):
    raise AssertionError("plans need no text")

  def train_examples(self, pair, vocabulary):
    return self._lengths[pair]


@pytest.fixture
def lengths():
  return Lengths


@pytest.fixture
def lengths_corpus():
  """The lengths and rates of a mixture like `mixture`, without its text."""
  sizes = {"en-de": 700, "de-en": 150, "fr-en": 20, "en-fr": 150, "fr-de": 300}
  total = sum(size**0.5 for size in sizes.values())
  generator = np.random.default_rng(0)
  return LengthsCorpus(
    {pair: size**0.5 / total for pair, size in sizes.items()},
    {
      pair: Lengths(generator.integers(4, (11, 14), (size, 2)))
      for pair, size in sizes.items()
    },
  )


@pytest.fixture
def letters():
  return LetterVocabulary()


@pytest.fixture
def mixture_of():
  """Makes a mixture of `{pair: {part: text}}`."""
  # Not above: the tests that need no TensorFlow shall not wait for it.
  from taskmoe_jax.data.seqio.registration import register_mixture
  from taskmoe_jax.data.seqio.sources import ParallelSource

  def make(texts, *, temperature=1.0, vocabulary="none.model"):
    sources = [
      ParallelSource(
        *pair.split("-"),
        {part: functools.partial(lambda t: t, t) for part, t in parts.items()},
      )
      for pair, parts in texts.items()
    ]
    return register_mixture(
      "made_in_test",
      sources,
      vocabulary=vocabulary,
      temperature=temperature,
      task_prefix="made_in_test",
    )

  return make


@pytest.fixture
def numbered():
  """Makes texts whose i-th example says i, in sentences of 4 to 13 letters."""

  def make(size):
    return [(_spell(i), _spell(i, 3)) for i in range(size)]

  return make


def _spell(number, longer=0):
  """Number 17 is `aabh` and then some z's: base 10, a letter a digit."""
  digits = "".join(chr(ord("a") + int(digit)) for digit in f"{number:04d}")
  return digits + "z" * (number * number % (7 + longer))


@pytest.fixture
def mixture(mixture_of, numbered):
  """Five pairs whose epochs end at different times."""
  sizes = {"en-de": 700, "de-en": 150, "fr-en": 20, "en-fr": 150, "fr-de": 300}
  return mixture_of(
    {pair: {"train": numbered(size)} for pair, size in sizes.items()},
    temperature=2.0,
  )


@pytest.fixture
def batches_of(letters):
  """Makes batches with a vocabulary of letters."""
  from taskmoe_jax.data.batches.batches import TrainBatches
  from taskmoe_jax.data.corpus import task_space_of

  def make(mixture, **changes):
    options = {
      "task_space": task_space_of(open_corpus(mixture), "target"),
      "batch_size": 6,
      "rows_per_task_group": 1,
      "source_length": 31,
      "target_length": 37,
      "pack": True,
      "seed": 5,
    }
    return TrainBatches(
      open_corpus(mixture), vocabulary=letters, **{**options, **changes}
    )

  return make


@pytest.fixture
def examples_in():
  """Takes rows apart again: `(source tokens, target tokens)` of a segment."""

  def split(batch):
    found = []
    for row in range(len(batch["encoder_input_tokens"])):
      for segment in range(1, batch["encoder_segment_ids"][row].max() + 1):
        sides = []
        for ids, tokens in (
          ("encoder_segment_ids", "encoder_input_tokens"),
          ("decoder_segment_ids", "decoder_target_tokens"),
        ):
          sides.append(tuple(batch[tokens][row][batch[ids][row] == segment]))
        found.append(tuple(sides))
    return found

  return split

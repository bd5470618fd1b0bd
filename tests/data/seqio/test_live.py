import numpy as np
import pytest

from taskmoe_jax.data.opening import open_corpus


class Counting:
  """A text that remembers what was read of it."""

  def __init__(self):
    self.reads = []

  def __len__(self):
    return 40

  def __getitem__(self, index):
    self.reads.append(index)
    letter = chr(ord("a") + index % 26)
    return letter * (1 + index % 3), letter


@pytest.fixture
def text():
  return Counting()


@pytest.fixture
def train_examples(mixture_of, letters, text):
  corpus = open_corpus(mixture_of({"en-de": {"train": text}}))
  return corpus.train_examples("en-de", letters)


def test_each_sentence_is_tokenised_once(train_examples, text):
  assert train_examples.size == 40
  sizes = train_examples.sizes(np.array([4, 2, 4]))
  assert sizes.tolist() == [[2, 1], [3, 1], [2, 1]]
  sources, targets = train_examples.tokens(np.array([2, 4]))
  assert sources.ids.tolist() == [12, 12, 12, 14, 14]
  assert sources.sizes.tolist() == [3, 2]
  assert (targets.ids.tolist(), targets.sizes.tolist()) == ([12, 14], [1, 1])
  assert text.reads == [4, 2]


def test_what_was_forgotten_is_tokenised_again(train_examples, text):
  for index in range(3):
    train_examples.sizes(np.array([index]))
  sources, _ = train_examples.tokens(np.array([2, 0, 1]))
  assert sources.ids.tolist() == [12, 12, 12, 10, 11, 11]
  # Two plans are remembered, the first of three is not.
  assert text.reads == [0, 1, 2, 0]

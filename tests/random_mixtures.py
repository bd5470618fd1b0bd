"""Fixtures for rooms that need a mixture of random weights, with sentences.

Made without compiling anything. A folder's `conftest.py` imports them.
"""

import pytest

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary
from tests.trained_pieces import trained_pieces

PAIRS = ("en-de", "de-en", "en-fr", "fr-en")


@pytest.fixture(scope="session")
def vocabulary():
  """The letters a to h, and three target symbols."""
  return Vocabulary(
    trained_pieces(
      ["abcdefgh"] * 3,
      vocab_size=15,
      symbols=["<2de>", "<2en>", "<2fr>"],
      model_type="char",
    )
  )


@pytest.fixture(scope="session")
def mixture_of(tiny_model, vocabulary, random_params):
  """Makes a translator; both stacks have a dense and an MoE layer, twice."""

  def make(encoder="task", decoder="task", *, task_by="target", **changes):
    config = tiny_model(encoder, decoder, vocab_size=17, **changes)
    space = TaskSpace.from_pairs(PAIRS, task_by)
    params = random_params(Transformer(config, len(space.tasks)))
    return Translator(config, params, space, vocabulary)

  return make


@pytest.fixture
def samples():
  """Sentences with references of every pair.

  Three or four of each: both are decoded in four rows, by one program.
  """
  return {
    "en-de": [("abc", "cba"), ("hg fe", "efgh"), ("ba", "fad")],
    "de-en": [("dad", "add"), ("f", "bead"), ("cage", "hag"), ("be", "fee")],
    "en-fr": [("abcdefgh", "ha"), ("bad", "gab"), ("he", "head")],
    "fr-en": [("cab", "bac"), ("a", "b"), ("gaga", "head"), ("each", "ace")],
  }

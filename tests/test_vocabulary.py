import hashlib

import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.vocabulary import Vocabulary, right_shift, target_symbol
from tests.trained_pieces import trained_pieces


@pytest.fixture(scope="module")
def model():
  """Letters and words of one sentence; ids 0, 1, 2 as T5 has them."""
  return trained_pieces(
    ["the cat and the hat"] * 20, vocab_size=15, symbols=["<2de>", "<2fr>"]
  )


@pytest.fixture
def vocabulary(model):
  return Vocabulary(model)


@pytest.mark.parametrize("xp", [np, jnp])
def test_what_a_decoder_reads_to_predict(xp):
  targets = xp.asarray([[5, 9, 1, 0], [7, 7, 8, 1]], xp.int32)
  read = right_shift(targets, xp)
  assert read.tolist() == [[0, 5, 9, 1], [0, 7, 7, 8]]
  assert read.dtype == targets.dtype


def test_text_to_ids_and_back(vocabulary):
  lines = ["the cat", "hat and the cat", ""]
  ids = vocabulary.encode(lines)
  assert [bool(sequence) for sequence in ids] == [True, True, False]
  assert not {0, 1, 2} & set(ids[0] + ids[1])
  assert vocabulary.decode(ids) == lines
  assert vocabulary.encode([]) == vocabulary.decode([]) == []


def test_decoding_ends_at_the_end_of_sentence(vocabulary):
  (cat,) = vocabulary.encode(["cat"])
  assert vocabulary.decode([[*cat, 1, *cat], [0, *cat, 0, 0], [1]]) == [
    "cat",
    "cat",
    "",
  ]


def test_ids_beyond_the_vocabulary_are_unknown(vocabulary):
  (cat,) = vocabulary.encode(["cat"])
  unknown = vocabulary.decode([[*cat, 2]])
  assert vocabulary.decode([[*cat, 15], [*cat, 999]]) == 2 * unknown


def test_target_symbols(vocabulary):
  assert target_symbol("zh_Hant") == "<2zh_Hant>"
  assert vocabulary.target_id("de") == 3
  assert vocabulary.target_id("fr") == 4
  with pytest.raises(TaskMoeError) as error:
    vocabulary.target_id("fi")
  assert str(error.value) == (
    "the vocabulary 'memory' has no symbol <2fi>: it was made for other"
    " languages. Make one for this mixture with `taskmoe vocab`."
  )


def test_load(model, tmp_path):
  path = tmp_path / "spm.model"
  path.write_bytes(model)
  vocabulary = Vocabulary.load(path)
  assert len(vocabulary) == 15
  assert vocabulary.origin == str(path)
  assert vocabulary.checksum == hashlib.sha256(model).hexdigest()


@pytest.mark.parametrize(
  ("data", "reason"),
  [
    (None, r"\(No such file or directory\)"),
    (b"", r"\(the file is empty\)"),
    (b"no model at all", r"\(.*\)"),
  ],
)
def test_file_that_is_no_vocabulary(tmp_path, data, reason):
  path = tmp_path / "spm.model"
  if data is not None:
    path.write_bytes(data)
  with pytest.raises(
    TaskMoeError, match=rf"^no vocabulary at '{path}' {reason}"
  ):
    Vocabulary.load(path)

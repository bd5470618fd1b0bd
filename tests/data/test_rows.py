import collections
import dataclasses
import itertools

import numpy as np
import pytest

from taskmoe_jax.data.rows import PairRows, Position
from taskmoe_jax.errors import TaskMoeError


class EndlessText:
  """Source a or b or ..., target the same twice."""

  def __getitem__(self, index):
    letter = chr(ord("a") + index % 26)
    return letter, 2 * letter


@pytest.fixture
def rows_of(letters):
  def make(text, *, pair="de-en", seed=7, length=(9, 8), pack=False):
    return PairRows(
      pair,
      text,
      len(text) if hasattr(text, "__len__") else None,
      vocabulary=letters,
      target_language="en",
      source_length=length[0],
      target_length=length[1],
      pack=pack,
      seed=seed,
    )

  return make


def _stack(rows, count):
  taken = [rows.take()[0] for _ in range(count)]
  return {name: np.stack([row[name] for row in taken]) for name in taken[0]}


def _sources(rows, count):
  return [tuple(s) for s in _stack(rows, count)["encoder_input_tokens"]]


def test_a_row_by_hand(rows_of):
  row, num_examples = rows_of([("ab", "cde")]).take()
  assert num_examples == 1
  assert row["encoder_input_tokens"].tolist() == [3, 10, 11, 1, 0, 0, 0, 0, 0]
  assert row["decoder_target_tokens"].tolist() == [12, 13, 14, 1, 0, 0, 0, 0]
  assert row["decoder_input_tokens"].tolist() == [0, 12, 13, 14, 0, 0, 0, 0]
  assert row["decoder_loss_weights"].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]


def test_endless_text_comes_in_its_own_order(rows_of):
  batch = _stack(rows_of(EndlessText()), 600)
  expected = [10 + i % 26 for i in range(600)]
  assert batch["encoder_input_tokens"][:, 1].tolist() == expected


def test_every_epoch_is_another_order_of_the_same_examples(rows_of):
  rows = rows_of([(letter, letter) for letter in "abcdefgh"])
  epochs = [_sources(rows, 8) for _ in range(40)]
  assert {frozenset(epoch) for epoch in epochs} == {frozenset(epochs[0])}
  assert len(set(epochs[0])) == 8
  assert len({tuple(epoch) for epoch in epochs}) > 35


def test_packed_rows_hold_every_example_once_an_epoch(
  rows_of, numbered, examples_in
):
  text = numbered(300)
  rows = rows_of(text, length=(31, 37), pack=True)
  taken = []
  # 75 blocks of 256 examples are 64 epochs of 300.
  while rows.position.examples < 75 * 256:
    taken.append(rows.take()[0])
  batch = {name: np.stack([row[name] for row in taken]) for name in taken[0]}
  counts = collections.Counter(examples_in(batch))
  assert len(counts) == 300
  assert set(counts.values()) == {64}
  assert len(taken) < 0.6 * rows.position.examples
  encoded = rows_of(text[17:18], length=(31, 37)).take()[0]
  source = encoded["encoder_input_tokens"]
  target = encoded["decoder_target_tokens"]
  assert (tuple(source[source > 0]), tuple(target[target > 0])) in counts


def test_packed_rows_are_not_sorted_by_length(rows_of, numbered):
  rows = rows_of(numbered(256), length=(31, 37), pack=True)
  counts = [rows.take()[1] for _ in range(60)]
  assert counts != sorted(counts)
  assert counts[:30] != counts[30:]
  assert abs(sum(counts[:30]) - sum(counts[30:])) < 20


@pytest.mark.parametrize("pack", [True, False])
def test_order_depends_on_seed_and_pair(rows_of, numbered, pack):
  text = numbered(200)
  options = {"length": (31, 37), "pack": pack}
  first = _sources(rows_of(text, **options), 40)
  assert first == _sources(rows_of(text, **options), 40)
  assert first != _sources(rows_of(text, seed=8, **options), 40)
  assert first != _sources(rows_of(text, pair="fr-en", **options), 40)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("size", [100, 300, None])
def test_goes_on_from_any_position(rows_of, numbered, pack, size):
  text = numbered(size) if size else EndlessText()
  options = {"length": (19, 17), "pack": pack}
  unbroken = rows_of(text, **options)
  positions, taken = [], []
  for _ in range(520):
    positions.append(dataclasses.replace(unbroken.position))
    taken.append(unbroken.take())
  for start in [0, 1, 99, 100, 255, 256, 257, 511, 512, 518]:
    resumed = rows_of(text, **options)
    resumed.restore(positions[start])
    for row, num_examples in itertools.islice(taken, start, start + 2):
      again, num_again = resumed.take()
      assert num_again == num_examples
      for name in row:
        np.testing.assert_array_equal(again[name], row[name])
    assert resumed.position == positions[start + 2] if start < 518 else True


def test_restoring_leaves_the_given_position_alone(rows_of):
  rows, position = rows_of(EndlessText()), Position(block=2, row=3)
  rows.restore(position)
  rows.take()
  assert position == Position(block=2, row=3)
  assert rows.position == Position(block=2, row=4, examples=1)


def test_too_long_is_left_out_and_counted(rows_of):
  # Rows of 9 and 8 hold 7 letters each, beside <2en> and the end.
  text = [
    ("abcdefg", "abcdefg"),
    ("abcdefgh", "a"),
    ("b", "abcdefgh"),
    ("c", "d"),
  ]
  rows = rows_of(text)
  # Of a block's 256 examples, 64 epochs of 4, half fit.
  sources = _sources(rows, 128)
  assert set(sources) == {
    (3, 10, 11, 12, 13, 14, 15, 16, 1),
    (3, 12, 1, 0, 0, 0, 0, 0, 0),
  }
  assert rows.position.skipped_too_long == 128
  rows.take()
  assert rows.position.skipped_too_long == 256

  resumed = rows_of(text)
  resumed.restore(rows.position)
  resumed.take()
  assert resumed.position.skipped_too_long == 256


@pytest.mark.parametrize("finite", [True, False])
def test_nothing_fits(rows_of, finite):
  text = [("abc", "abc")] * 700 if finite else EndlessText()
  with pytest.raises(TaskMoeError) as error:
    rows_of(text, length=(3, 2)).take()
  assert str(error.value) == (
    "no example of de-en fits into a row of 3 source and 2 target tokens."
    " Raise SOURCE_LENGTH or TARGET_LENGTH."
  )


def test_a_lone_short_sentence_is_found(rows_of):
  text = [("abcdefghij", "a")] * 5000 + [("a", "b")]
  rows = rows_of(text)
  assert _sources(rows, 2) == 2 * [(3, 10, 1, 0, 0, 0, 0, 0, 0)]
  assert rows.position.examples == 2

import collections
import dataclasses

import numpy as np
import pytest

from taskmoe_jax.data.batches.rows import PairRows, Position
from taskmoe_jax.errors import TaskMoeError


@pytest.fixture
def various(lengths):
  """Examples of 1 to 12 and 1 to 15 tokens."""

  def make(size, **options):
    generator = np.random.default_rng(size)
    return lengths(generator.integers(1, (13, 16), (size, 2)), **options)

  return make


@pytest.fixture
def rows_of():
  def make(examples, *, pair="de-en", seed=7, length=(9, 8), pack=False):
    return PairRows(
      pair,
      examples,
      source_length=length[0],
      target_length=length[1],
      pack=pack,
      seed=seed,
    )

  return make


def _take(rows, count):
  """Rows as tuples, which can be compared."""
  taken = [rows.take() for _ in range(count)]
  return [(tuple(row.examples.tolist()), *row[1:]) for row in taken]


def _examples(rows, count):
  return [index for indices, *_ in _take(rows, count) for index in indices]


def test_a_row_by_hand(rows_of, lengths):
  rows = rows_of(lengths([(2, 3)]))
  # With <2en> and the end.
  assert _take(rows, 1) == [((0,), 4, 4)]
  assert rows.position == Position(block=0, row=1, examples=1)
  packed = rows_of(lengths([(2, 2)]), pack=True)
  assert _take(packed, 1) == [((0, 0), 8, 6)]
  assert packed.position == Position(block=0, row=1, examples=2)


def test_endless_text_comes_in_its_own_order(rows_of, lengths):
  rows = rows_of(lengths([(1, 2)] * 26, endless=True))
  assert _examples(rows, 600) == list(range(600))


def test_every_epoch_is_another_order_of_the_same_examples(rows_of, lengths):
  rows = rows_of(lengths([(1, 1)] * 8))
  epochs = [_examples(rows, 8) for _ in range(40)]
  assert all(sorted(epoch) == list(range(8)) for epoch in epochs)
  assert len({tuple(epoch) for epoch in epochs}) > 35


def test_packed_rows_hold_every_example_once_an_epoch(rows_of, various):
  examples = various(300)
  rows = rows_of(examples, length=(31, 37), pack=True)
  taken = []
  # 75 blocks of 256 examples are 64 epochs of 300.
  while rows.position.examples < 75 * 256:
    taken += _take(rows, 1)
  counts = collections.Counter(index for row, *_ in taken for index in row)
  assert len(counts) == 300
  assert set(counts.values()) == {64}
  assert len(taken) < 0.5 * rows.position.examples
  for indices, source_tokens, target_tokens in taken:
    sizes = examples.sizes(np.array(indices)).sum(axis=0)
    assert source_tokens == sizes[0] + 2 * len(indices) <= 31
    assert target_tokens == sizes[1] + len(indices) <= 37


def test_packed_rows_are_not_sorted_by_length(rows_of, various):
  rows = rows_of(various(256), length=(31, 37), pack=True)
  counts = [len(row) for row, *_ in _take(rows, 60)]
  assert counts != sorted(counts)
  assert counts[:30] != counts[30:]
  assert abs(sum(counts[:30]) - sum(counts[30:])) < 20


@pytest.mark.parametrize("pack", [True, False])
def test_order_depends_on_seed_and_pair(rows_of, various, pack):
  options = {"length": (31, 37), "pack": pack}
  first = _take(rows_of(various(200), **options), 40)
  assert first == _take(rows_of(various(200), **options), 40)
  assert first != _take(rows_of(various(200), seed=8, **options), 40)
  assert first != _take(rows_of(various(200), pair="fr-en", **options), 40)


@pytest.mark.parametrize("pack", [True, False])
def test_how_far_one_plans_ahead_changes_nothing(rows_of, various, pack):
  options = {"length": (19, 17), "pack": pack}
  one, many = (
    rows_of(various(300, blocks_ahead=number), **options) for number in (1, 7)
  )
  assert _take(one, 3000) == _take(many, 3000)
  assert one.position == many.position
  assert one.position.block > 5


def test_the_first_row_costs_one_block_and_later_ones_more(rows_of, various):
  examples = various(300, blocks_ahead=8)
  rows = rows_of(examples, length=(31, 37), pack=True)
  asked = []
  while len(asked) < 5:
    rows.take()
    if examples.asked:
      asked.append(examples.asked // 256)
      examples.asked = 0
  assert asked == [1, 2, 4, 8, 8]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("size", [1, 100, 300, None])
def test_goes_on_from_any_position(rows_of, various, pack, size):
  examples = various(size or 77, endless=size is None)
  options = {"length": (19, 17), "pack": pack}
  unbroken = rows_of(examples, **options)
  positions, taken = [], []
  for _ in range(520):
    positions.append(dataclasses.replace(unbroken.position))
    taken += _take(unbroken, 1)
  for start in [0, 1, 99, 100, 255, 256, 257, 400, 511, 512, 517]:
    resumed = rows_of(examples, **options)
    resumed.restore(positions[start])
    assert _take(resumed, 2) == taken[start : start + 2]
    assert resumed.position == positions[start + 2]


def test_restoring_leaves_the_given_position_alone(rows_of, lengths):
  rows, position = rows_of(lengths([(1, 1)])), Position(block=2, row=3)
  rows.restore(position)
  rows.take()
  assert position == Position(block=2, row=3)
  assert rows.position == Position(block=2, row=4, examples=1)


@pytest.mark.parametrize("pack", [True, False])
def test_too_long_is_left_out_and_counted(rows_of, lengths, pack):
  # Rows of 9 and 8 hold 7 tokens each, beside <2en> and the end.
  examples = lengths([(7, 7), (8, 1), (1, 8), (6, 7)])
  rows = rows_of(examples, pack=pack)
  # Of a block's 256 examples, 64 epochs of 4, half fit.
  assert set(_take(rows, 128)) == {((0,), 9, 8), ((3,), 8, 8)}
  assert rows.position.skipped_too_long == 128
  rows.take()
  assert rows.position.skipped_too_long == 256

  resumed = rows_of(examples, pack=pack)
  resumed.restore(rows.position)
  resumed.take()
  assert resumed.position.skipped_too_long == 256


@pytest.mark.parametrize("endless", [True, False])
@pytest.mark.parametrize("pack", [True, False])
def test_nothing_fits(rows_of, lengths, endless, pack):
  examples = lengths([(3, 3)] * 700, endless=endless)
  with pytest.raises(TaskMoeError) as error:
    rows_of(examples, length=(3, 2), pack=pack).take()
  assert str(error.value) == (
    "no example of de-en fits into a row of 3 source and 2 target tokens."
    " Raise SOURCE_LENGTH or TARGET_LENGTH."
  )


@pytest.mark.parametrize("pack", [True, False])
def test_a_lone_short_sentence_is_found(rows_of, lengths, pack):
  rows = rows_of(lengths([(10, 1)] * 5000 + [(1, 1)]), pack=pack)
  assert _take(rows, 2) == 2 * [((5000,), 3, 2)]
  assert rows.position.examples == 2

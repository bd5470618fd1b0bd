import itertools

import numpy as np
import pytest

from taskmoe_jax.data.packing import first_fit_decreasing, pack


def _fit(sizes, source_length, target_length):
  sources, targets = np.array(sizes).T
  return first_fit_decreasing(sources, targets, source_length, target_length)


def test_largest_first_into_the_first_row_with_room():
  # Rows of 10: 8 opens the first, 7 the second; 3 fits beside 7 only, 2 beside
  # 8, and the last 2 opens a third.
  sizes = [(3, 1), (2, 1), (8, 1), (7, 1), (2, 1)]
  assert _fit(sizes, 10, 10) == [[2, 1], [3, 0], [4]]


def test_both_sides_must_fit():
  # By sources all three would share a row of 12; the second and third targets
  # are 4 + 3 > 6. Size counts as share of the row: 4/6 before 5/12.
  sizes = [(5, 2), (2, 4), (2, 3)]
  assert _fit(sizes, 12, 6) == [[1, 0], [2]]


def test_a_full_row_is_full():
  assert _fit([(5, 7), (5, 7), (10, 14)], 10, 14) == [[2], [0, 1]]


def test_too_long_is_our_bug():
  with pytest.raises(AssertionError, match="longer than a row"):
    _fit([(11, 1)], 10, 10)


def test_real_sizes_fill_rows():
  generator = np.random.default_rng(0)
  sizes = generator.integers(3, 40, (256, 1)).repeat(2, axis=1)
  rows = _fit(sizes, 64, 64)
  assert sorted(itertools.chain(*rows)) == list(range(256))
  assert all(sizes[row, 0].sum() <= 64 for row in rows)
  assert sizes[:, 0].sum() / (64 * len(rows)) > 0.92


def test_the_example_of_the_docstring():
  sources = [[7, 8, 5, 1], [6, 1], [8, 4, 9, 3, 1]]
  targets = [[3, 9, 1], [2, 6, 5, 1], [4, 1]]
  batch = pack([[0, 2], [1]], sources, targets, 10, 7)
  expected = {
    "encoder_input_tokens": [
      [7, 8, 5, 1, 8, 4, 9, 3, 1, 0],
      [6, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    "encoder_segment_ids": [
      [1, 1, 1, 1, 2, 2, 2, 2, 2, 0],
      [1, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    "encoder_positions": [
      [0, 1, 2, 3, 0, 1, 2, 3, 4, 0],
      [0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    ],
    "decoder_input_tokens": [[0, 3, 9, 0, 4, 0, 0], [0, 2, 6, 5, 0, 0, 0]],
    "decoder_target_tokens": [[3, 9, 1, 4, 1, 0, 0], [2, 6, 5, 1, 0, 0, 0]],
    "decoder_loss_weights": [[1, 1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 0, 0, 0]],
    "decoder_segment_ids": [[1, 1, 1, 2, 2, 0, 0], [1, 1, 1, 1, 0, 0, 0]],
    "decoder_positions": [[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 0, 0, 0]],
  }
  assert batch.keys() == expected.keys()
  for name, rows in expected.items():
    np.testing.assert_array_equal(batch[name], rows, err_msg=name)
    ids = name != "decoder_loss_weights"
    assert batch[name].dtype == (np.int32 if ids else np.float32), name


def test_rows_may_be_full_to_the_last_token():
  batch = pack([[1, 0]], [[5, 1], [6, 7, 1]], [[4, 1], [1]], 5, 3)
  assert batch["encoder_input_tokens"].tolist() == [[6, 7, 1, 5, 1]]
  assert batch["decoder_target_tokens"].tolist() == [[1, 4, 1]]
  assert batch["decoder_input_tokens"].tolist() == [[0, 0, 4]]

import itertools

import numpy as np

from taskmoe_jax.data.batches.packing import Ragged, first_fit_decreasing, pack


def _fit(sizes, source_length, target_length):
  sources, targets = np.array(sizes).T[:, None]
  (rows,) = first_fit_decreasing(sources, targets, source_length, target_length)
  return rows.tolist()


def _ragged(sequences):
  return Ragged(
    np.array(list(itertools.chain(*sequences)), np.uint16),
    np.array([len(sequence) for sequence in sequences]),
  )


def test_largest_first_into_the_first_row_with_room():
  # Rows of 10: 8 opens the first, 7 the second; 3 fits beside 7 only, 2 beside
  # 8, and the last 2 opens a third.
  sizes = [(3, 1), (2, 1), (8, 1), (7, 1), (2, 1)]
  assert _fit(sizes, 10, 10) == [1, 0, 0, 1, 2]


def test_both_sides_must_fit():
  # By sources all three would share a row of 12; the second and third targets
  # are 4 + 3 > 6. Size counts as share of the row: 4/6 before 5/12.
  sizes = [(5, 2), (2, 4), (2, 3)]
  assert _fit(sizes, 12, 6) == [0, 0, 1]


def test_a_full_row_is_full():
  assert _fit([(5, 7), (5, 7), (10, 14)], 10, 14) == [1, 1, 0]


def test_what_is_too_long_is_in_no_row():
  assert _fit([(11, 1), (4, 4), (1, 11), (6, 6)], 10, 10) == [-1, 0, -1, 0]
  assert _fit([(11, 1)], 10, 10) == [-1]


def _by_a_loop(sizes, source_length, target_length):
  """First fit decreasing as one would say it."""
  fullness = [max(s / source_length, t / target_length) for s, t in sizes]
  rooms, rows = [], [-1] * len(sizes)
  for example in sorted(range(len(sizes)), key=lambda i: -fullness[i]):
    source, target = sizes[example]
    if fullness[example] > 1:
      continue
    if not any(room[0] >= source and room[1] >= target for room in rooms):
      rooms.append([source_length, target_length])
    row = next(
      row
      for row, room in enumerate(rooms)
      if room[0] >= source and room[1] >= target
    )
    rooms[row][0] -= source
    rooms[row][1] -= target
    rows[example] = row
  return rows


def test_blocks_in_lockstep_are_those_of_a_loop():
  generator = np.random.default_rng(0)
  sizes = generator.integers(1, 40, (2, 7, 61))
  sizes[:, 3] = generator.integers(30, 40, (2, 61))  # nearly all alone
  sizes[:, 4, :59] = 40  # nearly all too long
  rows = first_fit_decreasing(*sizes, 39, 37)
  for block in range(7):
    alone = _by_a_loop(sizes[:, block].T.tolist(), 39, 37)
    assert rows[block].tolist() == alone


def test_real_sizes_fill_rows():
  generator = np.random.default_rng(0)
  sizes = generator.integers(3, 40, (256, 1)).repeat(2, axis=1)
  rows = np.array(_fit(sizes, 64, 64))
  filled = np.bincount(rows, weights=sizes[:, 0])
  assert filled.max() <= 64
  assert filled.mean() / 64 > 0.92


def test_the_example_of_the_docstring():
  batch = pack(
    np.array([0, 0, 1]),
    _ragged([[8, 5], [4, 9, 3], []]),
    _ragged([[3, 9], [4], [2, 6, 5]]),
    np.array([7, 7, 6]),
    num_rows=2,
    source_length=10,
    target_length=7,
  )
  expected = {
    "encoder_input_tokens": [
      [7, 8, 5, 1, 7, 4, 9, 3, 1, 0],
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


def test_rows_may_be_full_to_the_last_token_and_stand_in_any_order():
  batch = pack(
    np.array([2, 2, 0]),
    _ragged([[5], [6, 7], [8]]),
    _ragged([[4], [], [3, 2]]),
    np.array([9, 9, 10]),
    num_rows=3,
    source_length=7,
    target_length=3,
  )
  assert batch["encoder_input_tokens"].tolist() == [
    [10, 8, 1, 0, 0, 0, 0],
    [0, 0, 0, 0, 0, 0, 0],
    [9, 5, 1, 9, 6, 7, 1],
  ]
  assert batch["decoder_target_tokens"].tolist() == [
    [3, 2, 1],
    [0, 0, 0],
    [4, 1, 1],
  ]
  assert batch["decoder_input_tokens"][2].tolist() == [0, 4, 0]

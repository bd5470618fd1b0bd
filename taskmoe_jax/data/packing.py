"""Sentences into rows: several short ones share a row, told apart by segments.

Two examples of one pair, with `source_length = 10` and `target_length = 7`:

  sources = [[7, 8, 5, 1], [8, 4, 9, 3, 1]]     1 is the end of sentence,
  targets = [[3, 9, 1],    [4, 1]]              0 is padding

become one row:

  encoder_input_tokens   7 8 5 1 8 4 9 3 1 0
  encoder_segment_ids    1 1 1 1 2 2 2 2 2 0
  encoder_positions      0 1 2 3 0 1 2 3 4 0
  decoder_target_tokens  3 9 1 4 1 0 0
  decoder_input_tokens   0 3 9 0 4 0 0      targets shifted within a segment
  decoder_loss_weights   1 1 1 1 1 0 0
  decoder_segment_ids    1 1 1 2 2 0 0
  decoder_positions      0 1 2 0 1 0 0

The layout is seqio's (seqio/feature_converters.py, EncDecFeatureConverter).
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from taskmoe_jax.vocabulary import PAD_ID

Rows = dict[str, Int[np.ndarray, "B _"] | Float[np.ndarray, "B _"]]


def first_fit_decreasing(
  source_sizes: Int[np.ndarray, "examples"],
  target_sizes: Int[np.ndarray, "examples"],
  source_length: int,
  target_length: int,
) -> list[list[int]]:
  """Chooses which examples share a row.

  The largest example first, each into the first row that has room for both of
  its sides. Every example must fit into an empty row.

  Returns:
    The examples of each row, as positions in the arguments.
  """
  fullness = np.maximum(
    source_sizes / source_length, target_sizes / target_length
  )
  source_room = np.full(len(fullness), source_length)
  target_room = np.full(len(fullness), target_length)
  rows: list[list[int]] = []
  for example in np.argsort(-fullness, kind="stable").tolist():
    source_size, target_size = source_sizes[example], target_sizes[example]
    fits = (source_room >= source_size) & (target_room >= target_size)
    row = int(np.argmax(fits))
    assert fits[row], "an example is longer than a row"
    if row == len(rows):
      rows.append([])
    rows[row].append(example)
    source_room[row] -= source_size
    target_room[row] -= target_size
  return rows


def pack(
  rows: Sequence[Sequence[int]],
  sources: Sequence[Sequence[int]],
  targets: Sequence[Sequence[int]],
  source_length: int,
  target_length: int,
) -> Rows:
  """Lays out rows as the model reads them; see the module's example.

  Args:
    rows: The examples of each row, in order.
    sources: Token ids of each example's source, whole: `<2xx>` to the end.
    targets: Token ids of each example's target, with the end of sentence.
    source_length: S, the tokens of a row's source side.
    target_length: T, the tokens of a row's target side.
  """
  encoder = _lay_out(rows, sources, source_length)
  decoder = _lay_out(rows, targets, target_length)
  target_tokens = decoder["tokens"]
  input_tokens = np.full_like(target_tokens, PAD_ID)
  input_tokens[:, 1:] = target_tokens[:, :-1]
  input_tokens[decoder["positions"] == 0] = PAD_ID
  return {
    "encoder_input_tokens": encoder["tokens"],
    "encoder_segment_ids": encoder["segment_ids"],
    "encoder_positions": encoder["positions"],
    "decoder_input_tokens": input_tokens,
    "decoder_target_tokens": target_tokens,
    "decoder_loss_weights": (decoder["segment_ids"] > 0).astype(np.float32),
    "decoder_segment_ids": decoder["segment_ids"],
    "decoder_positions": decoder["positions"],
  }


def _lay_out(
  rows: Sequence[Sequence[int]], sequences: Sequence[Sequence[int]], length: int
) -> dict[str, Int[np.ndarray, "B L"]]:
  """Writes each row's sequences one after another, without a Python loop.

  Every array below has one entry per example, then one per token.
  """
  tokens = np.full((len(rows), length), PAD_ID, np.int32)
  segment_ids = np.zeros_like(tokens)
  positions = np.zeros_like(tokens)

  order = [example for row in rows for example in row]
  row_sizes = [len(row) for row in rows]
  row = np.repeat(np.arange(len(rows)), row_sizes)
  segment = np.concatenate([np.arange(1, size + 1) for size in row_sizes])
  sizes = np.array([len(sequences[example]) for example in order])
  ends = np.cumsum(sizes)
  row_ends = ends[np.cumsum(row_sizes) - 1]
  row_starts = np.concatenate([[0], row_ends[:-1]])

  flat = np.arange(ends[-1])
  position = flat - np.repeat(ends - sizes, sizes)
  row = np.repeat(row, sizes)
  column = flat - row_starts[row]
  tokens[row, column] = np.concatenate([sequences[i] for i in order])
  segment_ids[row, column] = np.repeat(segment, sizes)
  positions[row, column] = position
  return {"tokens": tokens, "segment_ids": segment_ids, "positions": positions}

"""Token ids, and rows of them: short examples share one, as segments.

`tokenise` makes the ids, `first_fit_decreasing` chooses which examples share a
row, `pack` lays rows out.

Two examples of one pair, with `source_length = 10` and `target_length = 7`:

  sources = [[8, 5], [4, 9, 3]]     of a language whose <2xx> is 7;
  targets = [[3, 9], [4]]           1 is the end of sentence, 0 is padding

become one row:

  encoder_input_tokens   7 8 5 1 7 4 9 3 1 0
  encoder_segment_ids    1 1 1 1 2 2 2 2 2 0
  encoder_positions      0 1 2 3 0 1 2 3 4 0
  decoder_target_tokens  3 9 1 4 1 0 0
  decoder_input_tokens   0 3 9 0 4 0 0      targets shifted within a segment
  decoder_loss_weights   1 1 1 1 1 0 0
  decoder_segment_ids    1 1 1 2 2 0 0
  decoder_positions      0 1 2 0 1 0 0

The layout is seqio's (seqio/feature_converters.py, EncDecFeatureConverter).
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, Vocabulary, right_shift

Rows = dict[str, Int[np.ndarray, "rows _"] | Float[np.ndarray, "rows _"]]


class Ragged(NamedTuple):
  """Sequences of different lengths, one after another in one array."""

  ids: Int[np.ndarray, "tokens"]
  sizes: Int[np.ndarray, "sequences"]


def first_fit_decreasing(
  source_sizes: Int[np.ndarray, "blocks examples"],
  target_sizes: Int[np.ndarray, "blocks examples"],
  source_length: int,
  target_length: int,
) -> Int[np.ndarray, "blocks examples"]:
  """Chooses which examples of a block share a row.

  The largest example first, each into the first row that has room for both of
  its sides. Blocks are packed separately but in lockstep, because NumPy takes
  as long for one as for a dozen.

  Returns:
    The row of each example within its block; -1 if it does not fit.
  """
  num_blocks, num_examples = source_sizes.shape
  fits_alone = (source_sizes <= source_length) & (target_sizes <= target_length)
  # What does not fit comes last, takes no room, and is removed at the end.
  sizes = np.where(fits_alone, [source_sizes, target_sizes], 0)  # [2, ...]
  lengths = np.array([source_length, target_length]).reshape(2, 1, 1)
  order = np.argsort(-(sizes / lengths).max(axis=0), axis=1, kind="stable")
  sizes = np.take_along_axis(sizes, order[None], axis=2).astype(np.int32)
  source_room, target_room = np.broadcast_to(
    lengths, (2, num_blocks, num_examples)
  ).astype(np.int32)

  rows = np.empty((num_blocks, num_examples), np.int64)
  blocks = np.arange(num_blocks)
  num_open = 1  # the most rows that a block has begun, and an empty one
  for place in range(num_examples):
    source, target = sizes[:, :, place]
    fits = source_room[:, :num_open] >= source[:, None]
    fits &= target_room[:, :num_open] >= target[:, None]
    row = fits.argmax(axis=1)
    rows[blocks, order[:, place]] = row
    source_room[blocks, row] -= source
    target_room[blocks, row] -= target
    num_open = min(max(num_open, int(row.max()) + 2), num_examples)
  return np.where(fits_alone, rows, -1)


def pack(
  rows: Int[np.ndarray, "examples"],
  sources: Ragged,
  targets: Ragged,
  symbols: Int[np.ndarray, "examples"],
  *,
  num_rows: int,
  source_length: int,
  target_length: int,
) -> Rows:
  """Lays out rows as the model reads them; see the module's example.

  Args:
    rows: The row of each example; those of a row are adjacent.
    sources: Token ids of each example's source, without `<2xx>` and end.
    targets: Token ids of each example's target, without the end.
    symbols: Id of each example's `<2xx>`.
    num_rows: Number of rows.
    source_length: S, the tokens of a row's source side.
    target_length: T, the tokens of a row's target side.
  """
  encoder = _lay_out(rows, sources, symbols, (num_rows, source_length))
  decoder = _lay_out(rows, targets, None, (num_rows, target_length))
  target_tokens = decoder["tokens"]
  input_tokens = right_shift(target_tokens)
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
  rows: Int[np.ndarray, "examples"],
  sequences: Ragged,
  symbols: Int[np.ndarray, "examples"] | None,
  shape: tuple[int, int],
) -> dict[str, Int[np.ndarray, "rows L"]]:
  """Writes each row's sequences one after another, without a Python loop.

  Every array below has one entry per example, or one per token.
  """
  tokens = np.full(shape, PAD_ID, np.int32)
  segment_ids = np.zeros(shape, np.int32)
  positions = np.zeros(shape, np.int32)

  prefix = int(symbols is not None)
  sizes = sequences.sizes + prefix + 1
  ends = np.cumsum(sizes)
  begins_row = np.diff(rows, prepend=-1) != 0
  first = np.flatnonzero(begins_row)  # the first example of each row
  first = np.repeat(first, np.diff(first, append=len(rows)))
  segment = np.arange(len(rows)) - first + 1
  start = rows * shape[1] + (ends - sizes) - (ends - sizes)[first]

  position = np.arange(sizes.sum()) - np.repeat(ends - sizes, sizes)
  place = np.repeat(start, sizes) + position
  segment_ids.reshape(-1)[place] = np.repeat(segment, sizes)
  positions.reshape(-1)[place] = position
  flat = tokens.reshape(-1)
  is_text = np.ones(len(place), bool)
  is_text[ends - 1] = False
  if symbols is not None:
    is_text[ends - sizes] = False
    flat[start] = symbols
  flat[place[is_text]] = sequences.ids
  flat[start + sizes - 1] = EOS_ID
  return {"tokens": tokens, "segment_ids": segment_ids, "positions": positions}


def tokenise(vocabulary: Vocabulary, lines: Sequence[str]) -> Ragged:
  """Token ids of each line, without target symbol or end of sentence."""
  ids = vocabulary.encode(lines)
  sizes = np.fromiter(map(len, ids), np.int64, len(ids))
  flat = np.fromiter(itertools.chain.from_iterable(ids), np.int32, sizes.sum())
  return Ragged(flat, sizes)

"""Which examples of a pair share a row, as a function of the position.

The order of a pair's examples is computed from the seed (`permuted`): a new
permutation in every epoch, or the order of the text where that is endless and
already random. They are taken in blocks of a fixed number of examples; a block
is packed as a whole, so that its rows depend on nothing but the block's number.
To resume it is enough to know the block and how many of its rows were given.

Only lengths are needed here; `TrainBatches.make` reads the tokens of a row.

A permutation of n examples is not sampled but computed, position by position,
by a Feistel network over a x b >= n (Black and Rogaway, *Ciphers with Arbitrary
Finite Domains*, 2002): so a host jumps to any step at once, and the order of a
billion examples takes no memory. All arithmetic is in 64 bits and wraps around.
"""

import dataclasses
import math
import zlib
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt64

from taskmoe_jax.data.batches import packing
from taskmoe_jax.data.corpus import TrainExamples
from taskmoe_jax.errors import TaskMoeError

_ROUNDS = 6
# The odd constant and the shifts of splitmix64 (Steele et al., 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def key_of(seed: int, name: str, purpose: int) -> UInt64[np.ndarray, "1"]:
  """A key that depends on all three, for `permuted` or `hashed`.

  Args:
    seed: The run's seed.
    name: What the order is of, such as a pair.
    purpose: Distinguishes the orders of one name.
  """
  entropy = [seed, zlib.crc32(name.encode()), purpose]
  return np.random.SeedSequence(entropy).generate_state(1, np.uint64)


def hashed(
  key: UInt64[np.ndarray, "#n"], values: Int[np.ndarray, "#n"]
) -> UInt64[np.ndarray, "n"]:
  """Random-looking 64 bits for each value: one step of splitmix64."""
  return _mix(key + (values.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def permuted(
  places: Int[np.ndarray, "n"], size: int, key: UInt64[np.ndarray, "1"]
) -> Int[np.ndarray, "n"]:
  """Returns the example at each place of an endless order.

  The places `e * size` to `(e + 1) * size` are epoch e: each example once, in
  an order that depends on the key and on e.

  Args:
    places: Positions, counted through all epochs.
    size: Number of examples.
    key: From `key_of`.
  """
  epochs, found = np.divmod(places, size)
  keys = hashed(key, epochs)
  rows = math.isqrt(size - 1) + 1
  columns = -(-size // rows)
  found = _feistel(found.astype(np.uint64), rows, columns, keys)
  # The square is a little larger than the epoch. What falls outside follows its
  # cycle (cycle walking), which must return inside, where it began.
  while (outside := np.flatnonzero(found >= size)).size:
    found[outside] = _feistel(found[outside], rows, columns, keys[outside])
  return found.astype(np.int64)


def _feistel(
  values: UInt64[np.ndarray, "n"],
  rows: int,
  columns: int,
  keys: UInt64[np.ndarray, "n"],
) -> UInt64[np.ndarray, "n"]:
  """A permutation of `range(rows * columns)` for each key."""
  left, right = np.divmod(values, np.uint64(columns))
  for number in range(_ROUNDS):
    modulus = np.uint64(columns if number % 2 else rows)
    noise = _mix(hashed(keys, np.array([number])) ^ (right * _GOLDEN))
    left, right = right, (left + noise % modulus) % modulus
  return left * np.uint64(columns) + right


def _mix(bits: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
  """The finaliser of splitmix64: every bit depends on every bit."""
  bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
  bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
  return bits ^ (bits >> np.uint64(31))


# Large enough that the last, half-full rows of a block weigh little.
_BLOCK_SIZE = 256
# Blocks to try before an endless text is said to have no example that fits.
_BLOCKS_TRIED = 16
# Besides its tokens a source has <2xx> and the end, a target the end.
_ADDED = (2, 1)
# Purposes of the keys of a seed and pair.
_EXAMPLE_ORDER, _ROW_ORDER = range(2)


@dataclasses.dataclass
class Position:
  """How far a pair's rows have been given.

  Attributes:
    block: Number of the block that the next row is from.
    row: How many of that block's rows have been given.
    examples: Examples given so far.
    skipped_too_long: Examples so far that do not fit into a row.
  """

  block: int = 0
  row: int = 0
  examples: int = 0
  skipped_too_long: int = 0


class Row(NamedTuple):
  """Indices of a row's examples in their text, and how much of it they fill."""

  examples: Int[np.ndarray, "segments"]
  source_tokens: int
  target_tokens: int


class _Plan(NamedTuple):
  """The rows of consecutive blocks.

  Attributes:
    first_block: Number of the first block.
    first_rows: Index of each block's first row, and last the number of rows.
    skipped: Number of examples of each block that do not fit into a row.
    first_examples: Index in `examples` of each row's first, and last their
      number.
    examples: The examples of all rows, one row after another.
    tokens: Number of source and target tokens of each row.
  """

  first_block: int
  first_rows: list[int]
  skipped: list[int]
  first_examples: list[int]
  examples: Int[np.ndarray, "_"]
  tokens: list[list[int]]

  def has(self, block: int) -> bool:
    return 0 <= block - self.first_block < len(self.skipped)


class PairRows:
  """Gives the rows of one pair, one after another."""

  def __init__(
    self,
    pair: str,
    examples: TrainExamples,
    *,
    source_length: int,
    target_length: int,
    pack: bool,
    seed: int,
  ):
    """Starts at the first row.

    Args:
      pair: Name of the pair. It is part of the seed, so that a pair's order
        does not depend on which others there are.
      examples: The pair's examples; only their lengths are read.
      source_length: S, tokens of a row's source with `<2xx>` and end.
      target_length: T, tokens of a row's target with the end.
      pack: Whether short examples share a row.
      seed: Seed of the order of examples and rows.
    """
    self.position = Position()
    self._pair = pair
    self._examples = examples
    self._lengths = (source_length, target_length)
    self._pack = pack
    self._example_key = key_of(seed, pair, _EXAMPLE_ORDER)
    self._row_key = key_of(seed, pair, _ROW_ORDER)
    self._plan = _Plan(0, [0], [], [0], np.zeros(0, np.int64), [])
    self._blocks_ahead = 1

  def restore(self, position: Position) -> None:
    """Resumes at a position, without reading what is before it."""
    self.position = dataclasses.replace(position)

  def take(self) -> Row:
    """Returns the next row."""
    row = self._open_row()
    plan, position = self._plan, self.position
    begin, end = plan.first_examples[row : row + 2]
    position.row += 1
    position.examples += end - begin
    return Row(plan.examples[begin:end], *plan.tokens[row])

  def _open_row(self) -> int:
    """Index in the plan of the next row, skipping finished blocks."""
    position = self.position
    for _ in range(self._max_blocks_to_try()):
      if not self._plan.has(position.block):
        self._plan = self._make_plan(position.block)
      block = position.block - self._plan.first_block
      if position.row == 0:
        position.skipped_too_long += self._plan.skipped[block]
      begin, end = self._plan.first_rows[block : block + 2]
      if begin + position.row < end:
        return begin + position.row
      position.block += 1
      position.row = 0
    raise TaskMoeError(
      f"no example of {self._pair} fits into a row of {self._lengths[0]}"
      f" source and {self._lengths[1]} target tokens. Raise SOURCE_LENGTH"
      " or TARGET_LENGTH."
    )

  def _max_blocks_to_try(self) -> int:
    size = self._examples.size
    if size is None:
      return 1 + _BLOCKS_TRIED
    # An example is at the furthest first in one epoch and last in the next.
    return 2 + math.ceil(2 * size / _BLOCK_SIZE)

  def _make_plan(self, first_block: int) -> _Plan:
    """Packs a block and those that follow: twice as many each time, to a limit.

    So the first batch comes soon, and later ones are cheap.
    """
    num_blocks = self._blocks_ahead
    self._blocks_ahead = min(2 * num_blocks, self._examples.blocks_ahead)
    places = np.arange(num_blocks * _BLOCK_SIZE) + first_block * _BLOCK_SIZE
    examples = places
    if self._examples.size is not None:
      examples = permuted(places, self._examples.size, self._example_key)
    sizes = self._examples.sizes(examples) + _ADDED
    rows = self._rows_of(sizes)

    kept = np.flatnonzero(rows >= 0)
    # Unique over all blocks: a block has at most one row per example.
    rows = rows[kept] + places[kept] // _BLOCK_SIZE * _BLOCK_SIZE
    by_row = np.argsort(rows, kind="stable")
    if self._pack:
      # Shuffled, because first fit puts full rows and long sentences first.
      noise = hashed(self._row_key, rows)
      by_row = np.lexsort((rows, noise, rows // _BLOCK_SIZE))
    kept, rows = kept[by_row], rows[by_row]
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    blocks = rows[starts] // _BLOCK_SIZE - first_block
    num_kept = np.bincount(kept // _BLOCK_SIZE, minlength=num_blocks)
    return _Plan(
      first_block,
      [0, *np.cumsum(np.bincount(blocks, minlength=num_blocks)).tolist()],
      (_BLOCK_SIZE - num_kept).tolist(),
      [*starts.tolist(), len(kept)],
      examples[kept],
      np.add.reduceat(sizes[kept], starts).tolist() if len(kept) else [],
    )

  def _rows_of(
    self, sizes: Int[np.ndarray, "examples 2"]
  ) -> Int[np.ndarray, "examples"]:
    """The row of each example within its block; -1 if it does not fit."""
    if self._pack:
      sources, targets = sizes.T.reshape(2, -1, _BLOCK_SIZE)
      return packing.first_fit_decreasing(
        sources, targets, *self._lengths
      ).reshape(-1)
    alone = np.arange(len(sizes)) % _BLOCK_SIZE
    return np.where((sizes <= self._lengths).all(axis=1), alone, -1)

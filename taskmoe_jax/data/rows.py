"""The endless rows of one pair, as a function of its position in the text.

A pair's examples stand in an order computed from the seed: a new permutation
in every epoch, or the order of the text where that is endless and already
random. They are taken in blocks of a fixed number of examples; a block is
tokenised and packed as a whole, so that its rows depend on nothing but the
block's number. To go on after an interruption it is enough to know the block
and how many of its rows were given.
"""

import dataclasses
import functools
import math
import zlib
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from taskmoe_jax.data import packing
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.vocabulary import EOS_ID, Vocabulary

Row = dict[str, Int[np.ndarray, "_"] | Float[np.ndarray, "_"]]

# Large enough that the last, half-full rows of a block weigh little.
_BLOCK_SIZE = 256
# An endless text without one fitting sentence in so many blocks has none.
_BLOCKS_TRIED = 16
# What the generators of one seed and pair are for.
_EPOCH, _ROW_ORDER = range(2)


@runtime_checkable
class Text(Protocol):
  """Sentences in two languages by index; endless unless it has a length."""

  def __getitem__(self, index: int) -> tuple[str, str]: ...


@dataclasses.dataclass
class Position:
  """Where a pair's rows have got to.

  Attributes:
    block: Number of the block that the next row is from.
    row: Number of that block's rows already given.
    examples: Examples given so far.
    skipped_too_long: Examples met so far that fit into no row.
  """

  block: int = 0
  row: int = 0
  examples: int = 0
  skipped_too_long: int = 0


@dataclasses.dataclass(frozen=True)
class _Block:
  rows: packing.Rows
  num_examples: list[int]  # of each row
  skipped_too_long: int


class PairRows:
  """Gives the rows of one pair, one after another."""

  def __init__(
    self,
    pair: str,
    text: Text,
    size: int | None,
    *,
    vocabulary: Vocabulary,
    target_language: str,
    source_length: int,
    target_length: int,
    pack: bool,
    seed: int,
  ):
    """Starts at the first row.

    Args:
      pair: Name of the pair. It is part of the seed, so that a pair's order
        does not depend on which others there are.
      text: `text[i]` is the i-th source and target.
      size: Number of examples, or None if the text is endless.
      vocabulary: Tokenises; it must know `<2xx>` of the target language.
      target_language: The language of the targets.
      source_length: S, tokens of a row's source with `<2xx>` and end.
      target_length: T, tokens of a row's target with the end.
      pack: Whether short examples share a row.
      seed: Of the order of examples and rows.
    """
    self.position = Position()
    self._pair = pair
    self._text = text
    self._size = size
    self._vocabulary = vocabulary
    self._target_id = vocabulary.target_id(target_language)
    self._source_length = source_length
    self._target_length = target_length
    self._pack = pack
    self._seed = [seed, zlib.crc32(pair.encode())]
    self._block: _Block | None = None

  def restore(self, position: Position) -> None:
    """Goes on from a position, without going through what is before it."""
    self.position = dataclasses.replace(position)
    self._block = None

  def take(self) -> tuple[Row, int]:
    """Returns the next row `[L]` and how many examples are in it."""
    block = self._open_block()
    row = self.position.row
    self.position.row += 1
    self.position.examples += block.num_examples[row]
    arrays = {name: array[row] for name, array in block.rows.items()}
    return arrays, block.num_examples[row]

  def _open_block(self) -> _Block:
    """Returns the block of the next row, passing over finished ones."""
    if self._block is None:
      self._block = self._make_block()
    for _ in range(self._blocks_until_hopeless()):
      if self.position.row < len(self._block.num_examples):
        return self._block
      self.position.block += 1
      self.position.row = 0
      self._block = self._make_block()
    raise TaskMoeError(
      f"no example of {self._pair} fits into a row of {self._source_length}"
      f" source and {self._target_length} target tokens. Raise SOURCE_LENGTH"
      " or TARGET_LENGTH."
    )

  def _blocks_until_hopeless(self) -> int:
    if self._size is None:
      return _BLOCKS_TRIED
    # First in one epoch and last in the next is as far as an example can get.
    return 2 + math.ceil(2 * self._size / _BLOCK_SIZE)

  def _make_block(self) -> _Block:
    number = self.position.block
    pairs = [self._text[index] for index in self._indices(number)]
    encode = self._vocabulary.encode
    sources = [
      [self._target_id, *ids, EOS_ID] for ids in encode([s for s, _ in pairs])
    ]
    targets = [[*ids, EOS_ID] for ids in encode([t for _, t in pairs])]
    source_sizes = np.array([len(ids) for ids in sources])
    target_sizes = np.array([len(ids) for ids in targets])
    (fitting,) = np.nonzero(
      (source_sizes <= self._source_length)
      & (target_sizes <= self._target_length)
    )
    skipped = len(pairs) - len(fitting)
    if self.position.row == 0:
      self.position.skipped_too_long += skipped
    if not len(fitting):
      return _Block({}, [], skipped)

    rows = [[example] for example in range(len(fitting))]
    if self._pack:
      rows = packing.first_fit_decreasing(
        source_sizes[fitting],
        target_sizes[fitting],
        self._source_length,
        self._target_length,
      )
      # First fit gives full rows first and long sentences before short ones.
      np.random.default_rng([*self._seed, _ROW_ORDER, number]).shuffle(rows)
    arrays = packing.pack(
      rows,
      [sources[i] for i in fitting],
      [targets[i] for i in fitting],
      self._source_length,
      self._target_length,
    )
    return _Block(arrays, [len(row) for row in rows], skipped)

  def _indices(self, block: int) -> list[int]:
    places = range(block * _BLOCK_SIZE, (block + 1) * _BLOCK_SIZE)
    if self._size is None:
      return list(places)
    return [
      int(self._order(place // self._size)[place % self._size])
      for place in places
    ]

  @functools.lru_cache(maxsize=1)  # noqa: B019 - dies with the iterator
  def _order(self, epoch: int) -> Int[np.ndarray, "examples"]:
    generator = np.random.default_rng([*self._seed, _EPOCH, epoch])
    return generator.permutation(self._size)

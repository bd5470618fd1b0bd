"""Sentences sorted by length, in batches of few shapes."""

import collections
import dataclasses
import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Int

from taskmoe_jax.decoding.generate import Rows
from taskmoe_jax.decoding.search import Lengths
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.vocabulary import PAD_ID

_SHORTEST_BUCKET = 32
# How many lines an error names at most.
_MAX_LINES_NAMED = 5
# Batches are compacted (see `decoding.compaction`) if their bucket has at least
# this many: each halving takes as long to compile as the loop without it.
_MIN_BATCHES = 8
# How often at most, and the minimum number of rows of a device: fewer do not
# make a step much cheaper.
_MAX_COMPACTIONS = 2
_MIN_ROWS = 4


@dataclasses.dataclass(frozen=True)
class Sentence:
  """A line as a decoder reads it.

  Attributes:
    index: Index of its line, counted from 0.
    source: Token ids with target symbol and end of sentence.
    prefix: Token ids that its translation begins with.
    occurrence: How many equal sentences come before it.
  """

  index: int
  source: Sequence[int]
  prefix: Sequence[int] = ()
  occurrence: int = 0

  def key(self, seed: int) -> bytes:
    """A random key that depends on seed and text, not on the batch."""
    text = ",".join(map(str, (seed, self.occurrence, *self.source)))
    return hashlib.sha256(text.encode()).digest()[:8]


def with_prefixes(
  sentences: Sequence[Sentence], prefixes: Sequence[Sequence[int]]
) -> list[Sentence]:
  """The same sentences, with the prefixes of their translations."""
  return [
    dataclasses.replace(sentence, prefix=prefix)
    for sentence, prefix in zip(sentences, prefixes, strict=True)
  ]


def count_occurrences(sentences: Sequence[Sentence]) -> list[Sentence]:
  """Numbers equal sentences: how often each occurred before."""
  seen: dict[tuple[int, ...], int] = {}
  result = []
  for sentence in sentences:
    text = tuple(sentence.source)
    occurrence = seen[text] = seen.get(text, -1) + 1
    result.append(dataclasses.replace(sentence, occurrence=occurrence))
  return result


def check_lengths(
  sentences: Sequence[Sentence], lengths: Lengths
) -> list[Sentence]:
  """Truncates sources that are too long, or refuses them.

  Raises:
    TaskMoeError: Some are too long, and `lengths.truncate` is not set.
  """
  most = lengths.max_source
  long = [s for s in sentences if len(s.source) > most]
  if not long:
    return list(sentences)
  if not lengths.truncate:
    named = [
      f"{s.index + 1} ({len(s.source)})" for s in long[:_MAX_LINES_NAMED]
    ]
    more = len(long) - len(named)
    raise TaskMoeError(
      f"{len(long)} of the lines have more than {most} tokens: line"
      f" {', '.join(named)}{f' and {more} more' if more else ''}. Split them,"
      " raise --max_source (Lengths.max_source), or cut them with --truncate"
      " (Lengths.truncate)."
    )

  def cut(source):
    # The end of sentence stays.
    return [*source[: most - 1], source[-1]] if len(source) > most else source

  return [dataclasses.replace(s, source=cut(s.source)) for s in sentences]


def in_batches(
  sentences: Sequence[Sentence], num_rows: int
) -> Iterator[list[Sentence]]:
  """Yields up to `num_rows` sentences of one bucket, longest first."""
  buckets: dict[int, list[Sentence]] = {}
  for sentence in sorted(sentences, key=lambda s: -len(s.source)):
    buckets.setdefault(bucket(len(sentence.source)), []).append(sentence)
  for members in buckets.values():
    for first in range(0, len(members), num_rows):
      yield members[first : first + num_rows]


def compactions_by_bucket(
  sentences: Sequence[Sentence], num_rows: int, num_shards: int
) -> dict[int, int]:
  """How often the batches of each bucket may be halved.

  Args:
    sentences: All sentences that will be decoded.
    num_rows: Rows of a batch.
    num_shards: Number of devices over which they are spread.
  """
  counts = collections.Counter(bucket(len(s.source)) for s in sentences)
  most = 0
  while (
    most < _MAX_COMPACTIONS
    and (num_rows // num_shards) >> (most + 1) >= _MIN_ROWS
    and (num_rows // num_shards) % 2 ** (most + 1) == 0
  ):
    most += 1
  return {
    length: most if number > (_MIN_BATCHES - 1) * num_rows else 0
    for length, number in counts.items()
  }


def as_rows(
  batch: Sequence[Sentence],
  num_rows: int,
  *,
  task_id: int,
  lengths: Lengths,
  seed: int,
) -> tuple[Rows, int]:
  """Arrays of a padded batch, and the target length of its bucket.

  Both lengths are the bucket's, so that few shapes are compiled; the result
  depends on each sentence's own limit only.
  """
  filling = [()] * (num_rows - len(batch))
  sources = padded([s.source for s in batch], num_rows)
  prefixes = [s.prefix for s in batch]
  longest = max(map(len, prefixes))
  limits = np.zeros((num_rows,), np.int32)
  keys = np.zeros((num_rows, 2), np.uint32)
  for row, sentence in enumerate(batch):
    own = lengths.target_limit(len(sentence.source))
    limits[row] = len(sentence.prefix) + own
    keys[row] = np.frombuffer(sentence.key(seed), np.uint32)
  width = bucket(longest) if longest else 0
  return Rows(
    sources=sources,
    task_ids=np.full((num_rows,), task_id, np.int32),
    limits=limits,
    prefixes=_filled([*prefixes, *filling], width),
    keys=keys,
  ), lengths.target_limit(sources.shape[1]) + width


def padded(
  sequences: Sequence[Sequence[int]], num_rows: int
) -> Int[np.ndarray, "B L"]:
  """One row for each sequence, and rows of padding up to `num_rows`.

  The length is that of the bucket of the longest, so that few shapes compile.
  """
  filling = [()] * (num_rows - len(sequences))
  length = bucket(max(map(len, sequences)))
  return _filled([*sequences, *filling], length)


def bucket(length: int) -> int:
  """The length that `length` tokens are padded to: 32, 64, 128, ..."""
  size = _SHORTEST_BUCKET
  while size < length:
    size *= 2
  return size


def _filled(
  sequences: Sequence[Sequence[int]], length: int
) -> Int[np.ndarray, "B L"]:
  array = np.full((len(sequences), length), PAD_ID, np.int32)
  for row, ids in enumerate(sequences):
    array[row, : len(ids)] = ids
  return array

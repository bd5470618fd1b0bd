"""Text in, text out: a model with its vocabulary and task space."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Int, PyTree

from taskmoe_jax.decoding.greedy import greedy
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.task_space import TaskSpace, split_pair
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, Vocabulary

_SHORTEST_BUCKET = 32
# A translation may be so many times as long as its source's bucket.
_TARGET_RATIO = 2


@dataclasses.dataclass(frozen=True)
class Translations:
  """Translations of some lines, in their order.

  Attributes:
    texts: An empty line has an empty translation.
    token_ids: As decoded, end of sentence included.
    finished: False where a translation was cut off at the target length.
  """

  texts: list[str]
  token_ids: list[list[int]]
  finished: list[bool]


class Translator:
  """Translates lines of text, with a whole mixture or with a sub-network.

  Lines are sorted by length and decoded in batches of one shape for each
  bucket of lengths (32, 64, 128, ... tokens), so that there are few shapes to
  compile. A line's translation does not depend on the lines beside it.
  """

  def __init__(
    self,
    model: ModelConfig,
    params: PyTree,
    task_space: TaskSpace,
    vocabulary: Vocabulary,
    *,
    partitioning: Partitioning | None = None,
  ):
    self.model = model
    self.params = params
    self.task_space = task_space
    self.vocabulary = vocabulary
    self._partitioning = partitioning
    self._transformer = Transformer(model, len(task_space.tasks))

  def translate(
    self,
    lines: Sequence[str],
    pair: str | None = None,
    *,
    batch_size: int = 32,
  ) -> list[str]:
    """Returns a translation of each line; see `decode`."""
    return self.decode(lines, pair, batch_size=batch_size).texts

  def decode(
    self,
    lines: Sequence[str],
    pair: str | None = None,
    *,
    batch_size: int,
    progress: Callable[[int], None] = lambda number: None,
  ) -> Translations:
    """Translates greedily.

    Args:
      lines: Sentences, one each.
      pair: Such as `de-en`. Need not be given if the model has one pair, or
        only pairs between which it makes no difference.
      batch_size: Rows decoded together.
      progress: Called with the number of lines that have just been done.

    Raises:
      TaskMoeError: The pair is unknown, or needed and not given.
    """
    pair = self._pair(pair)
    target = split_pair(pair)[1]
    symbol = self.vocabulary.target_id(target)
    task_id = self.task_space.task_id(self.task_space.task_of_pair(pair))
    full = [index for index, line in enumerate(lines) if line.strip()]
    sources = dict(
      zip(
        full,
        (
          [symbol, *ids, EOS_ID]
          for ids in self.vocabulary.encode([lines[i] for i in full])
        ),
        strict=True,
      )
    )
    progress(len(lines) - len(full))
    token_ids = [[] for _ in lines]
    finished = [True for _ in lines]
    rows = self._rows(batch_size)
    for indices, array in _batches(sources, rows):
      tokens, ended = self._decode_rows(array, task_id)
      for index, ids, end in zip(indices, tokens, ended, strict=False):
        token_ids[index] = [int(i) for i in ids if i != PAD_ID]
        finished[index] = bool(end)
      progress(len(indices))
    texts = self.vocabulary.decode(token_ids)
    return Translations(texts, token_ids, finished)

  def _pair(self, pair: str | None) -> str:
    space = self.task_space
    if pair is not None:
      space.task_of_pair(pair)
      for language in split_pair(pair):
        space.language_id(language)
      return pair
    kinds = {(space.task_of_pair(p), split_pair(p)[1]) for p in space.pairs}
    if len(kinds) == 1:
      return space.pairs[0]
    raise TaskMoeError(
      "which pair to translate is not clear: accepted are"
      f" {', '.join(space.pairs)}. Set --pair."
    )

  def _rows(self, batch_size: int) -> int:
    """Rounds a batch size up to fill every device."""
    if batch_size < 1:
      raise TaskMoeError(
        f"batch_size={batch_size} is not at least 1. Set --batch_size."
      )
    shards = self._num_shards
    return -(-batch_size // shards) * shards

  @property
  def _num_shards(self) -> int:
    return self._partitioning.num_row_shards if self._partitioning else 1

  def _decode_rows(
    self, sources: Int[np.ndarray, "B S"], task_id: int
  ) -> tuple[np.ndarray, np.ndarray]:
    num_rows, length = sources.shape
    task_ids = np.full((num_rows,), task_id, np.int32)
    if self._partitioning is not None:
      sources, task_ids = map(
        self._partitioning.spread_rows, (sources, task_ids)
      )
    hypotheses = greedy(
      self.params,
      sources,
      task_ids,
      model=self._transformer,
      target_length=_TARGET_RATIO * length,
      rows_per_task_group=num_rows // self._num_shards,
      partitioning=self._partitioning,
    )
    return jax.device_get((hypotheses.tokens, hypotheses.finished))


def _batches(
  sources: dict[int, list[int]], num_rows: int
) -> Iterator[tuple[list[int], Int[np.ndarray, "B S"]]]:
  """Yields line numbers and padded token ids, longest lines first."""
  order = sorted(sources, key=lambda index: -len(sources[index]))
  buckets: dict[int, list[int]] = {}
  for index in order:
    buckets.setdefault(_bucket(len(sources[index])), []).append(index)
  for members in buckets.values():
    for first in range(0, len(members), num_rows):
      indices = members[first : first + num_rows]
      yield indices, padded([sources[index] for index in indices], num_rows)


def padded(
  sequences: Sequence[Sequence[int]], num_rows: int
) -> Int[np.ndarray, "B L"]:
  """One row for each sequence, and rows of padding up to `num_rows`.

  The length is that of the bucket of the longest, so that few shapes compile.
  """
  length = _bucket(max(map(len, sequences)))
  array = np.full((num_rows, length), PAD_ID, np.int32)
  for row, ids in enumerate(sequences):
    array[row, : len(ids)] = ids
  return array


def _bucket(length: int) -> int:
  bucket = _SHORTEST_BUCKET
  while bucket < length:
    bucket *= 2
  return bucket

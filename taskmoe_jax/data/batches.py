"""Batches for training: rows of all pairs at the mixture's rates.

The next rows always go to whoever is furthest behind its rate (stride
scheduling), first among tasks, then among the pairs of a task. So the rates
hold in examples at every moment, whatever packing does, and there is no
random choice to remember: a position is a few integers per pair.

A batch is planned before it is made. The plan, which examples share which row,
needs only lengths; every process plans the whole batch, and so all agree on it
without a word, and each makes the rows that it was given.
"""

import collections
import dataclasses
import heapq
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from taskmoe_jax.data import packing
from taskmoe_jax.data.corpus import Mixture, TrainExamples, open_corpus
from taskmoe_jax.data.packing import Ragged
from taskmoe_jax.data.rows import PairRows, Position, Row
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.task_space import TaskSpace, split_pair
from taskmoe_jax.vocabulary import Vocabulary

Batch = dict[str, Int[np.ndarray, "rows ..."] | Float[np.ndarray, "rows L"]]

_PACKED_ONLY = (
  "encoder_segment_ids",
  "encoder_positions",
  "decoder_segment_ids",
  "decoder_positions",
)


class PlannedRow(NamedTuple):
  """A row before it is made: its pair, and its examples by index."""

  pair: str
  row: Row


class _Pair(NamedTuple):
  """A pair: its rate and its rows."""

  name: str
  rate: float
  rows: PairRows

  @property
  def progress(self) -> float:
    """The examples given, over the share of all that it should get."""
    return self.rows.position.examples / self.rate


class _Task:
  """The pairs of a task, the one furthest behind its rate first."""

  def __init__(self, pairs: list[_Pair]):
    self.pairs = pairs
    self.rate = sum(pair.rate for pair in pairs)
    self.reorder()

  @property
  def progress(self) -> float:
    return self._examples / self.rate

  def reorder(self) -> None:
    """Sees that the positions of its pairs have changed."""
    self._examples = sum(pair.rows.position.examples for pair in self.pairs)
    # Who is first among equals is who comes first in the list.
    self._behind = [(pair.progress, i) for i, pair in enumerate(self.pairs)]
    heapq.heapify(self._behind)

  def take(self) -> PlannedRow:
    _, index = self._behind[0]
    pair = self.pairs[index]
    row = pair.rows.take()
    self._examples += len(row.examples)
    heapq.heapreplace(self._behind, (pair.progress, index))
    return PlannedRow(pair.name, row)


class TrainBatches:
  """Iterates over batches for ever; `state` and `restore` give its position.

  The keys are those of DESIGN.md section 4. The rows come in groups of
  `rows_per_task_group` of one task each, for expert fetch; their pairs may
  differ. A sentence that fits into no row is left out and counted.
  """

  def __init__(
    self,
    mixture: Mixture,
    *,
    vocabulary: Vocabulary,
    task_space: TaskSpace,
    batch_size: int,
    rows_per_task_group: int,
    source_length: int,
    target_length: int,
    pack: bool,
    seed: int,
    rows: slice | Int[np.ndarray, "rows"] | None = None,
  ):
    """Starts at the first batch.

    Args:
      mixture: Its pairs and rates; their train parts are read.
      vocabulary: Tokenises; it must know every target language.
      task_space: Gives the ids of languages, and the task of each pair.
      batch_size: B, the rows of the batch of all processes together.
      rows_per_task_group: Consecutive rows that share a task.
      source_length: S, tokens of a row's source.
      target_length: T, tokens of a row's target.
      pack: Whether short examples share a row.
      seed: Of the order of examples.
      rows: Which of the batch's rows this process makes; all unless given. The
        position and the counts are those of the whole batch, on any process.
    """
    self._num_groups = _num_groups(batch_size, rows_per_task_group)
    self._rows_per_task_group = rows_per_task_group
    self._rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    self._lengths = (source_length, target_length)
    self._pack = pack
    self._num_batches = 0
    self._num_batches_here = 0
    self._fills = collections.Counter()

    corpus = open_corpus(mixture)
    rates = corpus.rates
    self._examples: dict[str, TrainExamples] = {}
    self._ids: dict[str, tuple[int, int, int]] = {}
    members = collections.defaultdict(list)
    # Who is first among equals depends on the seed, not on the alphabet.
    for name in np.random.default_rng(seed).permutation(list(rates)).tolist():
      task_space.pair_id(name)  # must know it, or raises
      source, target = split_pair(name)
      self._ids[name] = (
        task_space.language_id(source),
        task_space.language_id(target),
        vocabulary.target_id(target),
      )
      self._examples[name] = corpus.train_examples(name, vocabulary)
      pair_rows = PairRows(
        name,
        self._examples[name],
        source_length=source_length,
        target_length=target_length,
        pack=pack,
        seed=seed,
      )
      pair = _Pair(name, rates[name], pair_rows)
      members[task_space.task_of_pair(name)].append(pair)
    self._tasks = [_Task(pairs) for pairs in members.values()]
    self._reorder()

  def __iter__(self) -> "TrainBatches":
    return self

  def __next__(self) -> Batch:
    return self.make(self.plan())

  def plan(self) -> list[PlannedRow]:
    """Plans the next batch, all of it, and goes on behind it."""
    planned = []
    for _ in range(self._num_groups):
      _, index = self._behind[0]
      task = self._tasks[index]
      planned += [task.take() for _ in range(self._rows_per_task_group)]
      heapq.heapreplace(self._behind, (task.progress, index))
    self._num_batches += 1
    self._count(planned)
    return planned

  def make(self, planned: list[PlannedRow]) -> Batch:
    """Makes the rows of a planned batch that this process was given."""
    by_pair = collections.defaultdict(list)
    for position, number in enumerate(self._rows.tolist()):
      by_pair[planned[number].pair].append((position, planned[number].row))
    rows, sides, symbols = [], [], []
    for name, members in by_pair.items():
      examples = np.concatenate([row.examples for _, row in members])
      counts = [len(row.examples) for _, row in members]
      rows.append(np.repeat([position for position, _ in members], counts))
      sides.append(self._examples[name].tokens(examples))
      symbols.append(np.full(len(examples), self._ids[name][2]))
    sources, targets = map(_chain, zip(*sides, strict=True))
    batch = packing.pack(
      np.concatenate(rows),
      sources,
      targets,
      np.concatenate(symbols),
      num_rows=len(self._rows),
      source_length=self._lengths[0],
      target_length=self._lengths[1],
    )
    if not self._pack:
      for name in _PACKED_ONLY:
        del batch[name]
    ids = np.array([self._ids[planned[i].pair] for i in self._rows], np.int32)
    batch["source_language"], batch["target_language"], _ = ids.T.copy()
    return batch

  def state(self) -> dict[str, Any]:
    """Returns the position of the next batch, as integers for JSON."""
    return {
      "batches": self._num_batches,
      "pairs": {
        pair.name: dataclasses.asdict(pair.rows.position)
        for pair in sorted(self._pairs, key=lambda pair: pair.name)
      },
    }

  def restore(self, state: dict[str, Any]) -> None:
    """Goes on from a `state`; the next batch is the one it was taken before.

    That holds for the same text, vocabulary, lengths, packing and seed. The
    number of rows in a batch or group may change, and so may the number of
    processes and which rows each makes.
    """
    names = {pair.name for pair in self._pairs}
    if differing := names ^ set(state["pairs"]):
      raise TaskMoeError(
        "the saved data position is of other pairs than this mixture:"
        f" {', '.join(sorted(differing))} are in one of them only. Set MIXTURE"
        " to the one the run was started with, or start a new run."
      )
    self._num_batches = state["batches"]
    for pair in self._pairs:
      pair.rows.restore(Position(**state["pairs"][pair.name]))
    self._reorder()

  @property
  def stats(self) -> dict[str, int | float]:
    """Counts of the whole run, and how full rows are since this start.

    `row_fill` is that of each row's fuller side, which is what packing can
    bring to 1; where one language needs more tokens the other side stays
    behind.
    """
    positions = [pair.rows.position for pair in self._pairs]
    return {
      "examples": sum(position.examples for position in positions),
      "skipped_too_long": sum(p.skipped_too_long for p in positions),
      **{
        name: float(total) / self._num_batches_here
        for name, total in self._fills.items()
      },
    }

  @property
  def _pairs(self) -> list[_Pair]:
    return [pair for task in self._tasks for pair in task.pairs]

  def _reorder(self) -> None:
    for task in self._tasks:
      task.reorder()
    self._behind = [(task.progress, i) for i, task in enumerate(self._tasks)]
    heapq.heapify(self._behind)

  def _count(self, planned: list[PlannedRow]) -> None:
    tokens = [(row.source_tokens, row.target_tokens) for _, row in planned]
    fill = np.array(tokens) / self._lengths
    self._fills["source_fill"] += fill[:, 0].mean()
    self._fills["target_fill"] += fill[:, 1].mean()
    self._fills["row_fill"] += fill.max(axis=1).mean()
    self._num_batches_here += 1


def _chain(sequences: tuple[Ragged, ...]) -> Ragged:
  return Ragged(*map(np.concatenate, zip(*sequences, strict=True)))


def _num_groups(batch_size: int, rows_per_task_group: int) -> int:
  if rows_per_task_group < 1 or batch_size < 1:
    raise TaskMoeError(
      f"a batch of {batch_size} rows in groups of {rows_per_task_group}:"
      " both are at least 1. Set BATCH_SIZE and ROWS_PER_TASK_GROUP."
    )
  if batch_size % rows_per_task_group:
    raise TaskMoeError(
      f"a batch of {batch_size} rows is no multiple of {rows_per_task_group},"
      " the rows of one task that stand together. Set BATCH_SIZE or"
      " ROWS_PER_TASK_GROUP."
    )
  return batch_size // rows_per_task_group

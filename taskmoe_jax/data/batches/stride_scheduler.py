"""Stride scheduling: which pair gives the next row, so that the rates hold.

Every task, and every pair of a task, has a virtual time: the examples it has
given, divided by its rate. The next rows always come from the task with the
least virtual time, and within it from the pair with the least. So the mixture's
rates hold in examples at every step, whatever packing does, and there is no
random choice to remember: a position is a few integers per pair.
"""

import collections
import heapq
from collections.abc import Iterable
from typing import NamedTuple

from taskmoe_jax.data.batches.rows import PairRows, Row
from taskmoe_jax.data.corpus import TrainExamples
from taskmoe_jax.task_space import TaskSpace


class PlannedRow(NamedTuple):
  """A row before it is made: its pair, and its examples by index."""

  pair: str
  row: Row


class Pair(NamedTuple):
  """A pair: its rate, its rows, and the ids that all of its rows share.

  Attributes:
    ids: Ids of the source language, the target language and `<2xx>`.
  """

  name: str
  rate: float
  examples: TrainExamples
  rows: PairRows
  ids: tuple[int, int, int]

  @property
  def virtual_time(self) -> float:
    """The examples given, divided by the rate."""
    return self.rows.position.examples / self.rate


class StrideScheduler:
  """Gives rows of the task, and of its pair, with the least virtual time."""

  def __init__(self, pairs: Iterable[Pair], task_space: TaskSpace):
    """Starts from the positions that the pairs' rows have.

    Args:
      pairs: All pairs; of equal virtual times the earlier one here is first.
      task_space: Gives the task of each pair.
    """
    members = collections.defaultdict(list)
    for pair in pairs:
      members[task_space.task_of_pair(pair.name)].append(pair)
    self._tasks = [_Task(pairs) for pairs in members.values()]
    self.reorder()

  def reorder(self) -> None:
    """Recomputes the virtual times, after positions have been restored."""
    for task in self._tasks:
      task.reorder()
    self._heap = [(task.virtual_time, i) for i, task in enumerate(self._tasks)]
    heapq.heapify(self._heap)

  def take(self, num_rows: int) -> list[PlannedRow]:
    """Returns the next rows, all of one task."""
    _, index = self._heap[0]
    task = self._tasks[index]
    rows = [task.take() for _ in range(num_rows)]
    heapq.heapreplace(self._heap, (task.virtual_time, index))
    return rows


class _Task:
  """The pairs of a task, in a heap by virtual time."""

  def __init__(self, pairs: list[Pair]):
    self.pairs = pairs
    self.rate = sum(pair.rate for pair in pairs)
    self.reorder()

  @property
  def virtual_time(self) -> float:
    return self._examples / self.rate

  def reorder(self) -> None:
    """Recomputes the virtual times, after positions have been restored."""
    self._examples = sum(pair.rows.position.examples for pair in self.pairs)
    # Of equal virtual times the earlier one in the list is first.
    self._heap = [(pair.virtual_time, i) for i, pair in enumerate(self.pairs)]
    heapq.heapify(self._heap)

  def take(self) -> PlannedRow:
    _, index = self._heap[0]
    pair = self.pairs[index]
    row = pair.rows.take()
    self._examples += len(row.examples)
    heapq.heapreplace(self._heap, (pair.virtual_time, index))
    return PlannedRow(pair.name, row)

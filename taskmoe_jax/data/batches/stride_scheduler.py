"""Whose turn it is to give a row, so that the mixture's rates hold.

The next rows always go to whoever is furthest behind its rate (stride
scheduling), first among tasks, then among the pairs of a task. So the rates
hold in examples at every moment, whatever packing does, and there is no
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
  """A pair: its rate, its rows, and what every row of it has.

  Attributes:
    ids: Of source language, target language and `<2xx>`.
  """

  name: str
  rate: float
  examples: TrainExamples
  rows: PairRows
  ids: tuple[int, int, int]

  @property
  def progress(self) -> float:
    """The examples given, over the share of all that it should get."""
    return self.rows.position.examples / self.rate


class StrideScheduler:
  """Tasks and their pairs, each with the one furthest behind first."""

  def __init__(self, pairs: Iterable[Pair], task_space: TaskSpace):
    """Starts from the positions that the pairs' rows have.

    Args:
      pairs: Among equals, who comes first here is first.
      task_space: Gives the task of each pair.
    """
    members = collections.defaultdict(list)
    for pair in pairs:
      members[task_space.task_of_pair(pair.name)].append(pair)
    self._tasks = [_Task(pairs) for pairs in members.values()]
    self.reorder()

  def reorder(self) -> None:
    """Sees that the positions of the pairs' rows have changed."""
    for task in self._tasks:
      task.reorder()
    self._behind = [(task.progress, i) for i, task in enumerate(self._tasks)]
    heapq.heapify(self._behind)

  def take(self, num_rows: int) -> list[PlannedRow]:
    """Returns the next rows, all of one task."""
    _, index = self._behind[0]
    task = self._tasks[index]
    rows = [task.take() for _ in range(num_rows)]
    heapq.heapreplace(self._behind, (task.progress, index))
    return rows


class _Task:
  """The pairs of a task, the one furthest behind its rate first."""

  def __init__(self, pairs: list[Pair]):
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

"""Batches for training: rows of all pairs at the mixture's rates.

The next rows always go to whoever is furthest behind its rate (stride
scheduling), first among tasks, then among the pairs of a task. So the rates
hold in examples at every moment, whatever packing does, and there is no
random choice to remember: a position is a few integers per pair.
"""

import collections
import dataclasses
import queue
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import seqio
from jaxtyping import Float, Int

from taskmoe_jax.data import sources
from taskmoe_jax.data.rows import PairRows, Position
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.task_space import TaskSpace, split_pair
from taskmoe_jax.vocabulary import Vocabulary

Batch = dict[str, Int[np.ndarray, "B ..."] | Float[np.ndarray, "B L"]]

_PACKED_ONLY = (
  "encoder_segment_ids",
  "encoder_positions",
  "decoder_segment_ids",
  "decoder_positions",
)


class _Share:
  """How much of something was given, and how much of all it should get."""

  def __init__(self, rate: float):
    self.rate = rate
    self.examples = 0

  @property
  def progress(self) -> float:
    return self.examples / self.rate


class _Pair(_Share):
  """A pair: its rows and its share."""

  def __init__(self, name: str, rate: float, rows: PairRows):
    super().__init__(rate)
    self.name = name
    self.rows = rows


class TrainBatches:
  """Iterates over batches for ever; `state` and `restore` give its position.

  The keys are those of DESIGN.md section 4. The rows come in groups of
  `rows_per_task_group` of one task each, for expert fetch; their pairs may
  differ. A sentence that fits into no row is left out and counted.
  """

  def __init__(
    self,
    mixture: seqio.Mixture,
    *,
    vocabulary: Vocabulary,
    task_space: TaskSpace,
    batch_size: int,
    rows_per_task_group: int,
    source_length: int,
    target_length: int,
    pack: bool,
    seed: int,
  ):
    """Starts at the first batch.

    Args:
      mixture: Its pairs and rates; their train parts are read.
      vocabulary: Tokenises; it must know every target language.
      task_space: Gives the ids of languages, and the task of each pair.
      batch_size: B, the rows of the batch of all hosts together.
      rows_per_task_group: Consecutive rows that share a task.
      source_length: S, tokens of a row's source.
      target_length: T, tokens of a row's target.
      pack: Whether short examples share a row.
      seed: Of the order of examples.
    """
    self._num_groups = _num_groups(batch_size, rows_per_task_group)
    self._rows_per_task_group = rows_per_task_group
    self._pack = pack
    self._task_space = task_space
    self._num_batches = 0
    self._num_batches_here = 0
    self._fills = collections.Counter()

    texts = sources.parallel_sources(mixture)
    rates = sources.rates(mixture)
    self._pairs: list[_Pair] = []
    # Who is first among equals depends on the seed, not on the alphabet.
    for name in np.random.default_rng(seed).permutation(list(rates)).tolist():
      rows = PairRows(
        name,
        texts[name].text("train"),
        texts[name].size("train"),
        vocabulary=vocabulary,
        target_language=texts[name].target_language,
        source_length=source_length,
        target_length=target_length,
        pack=pack,
        seed=seed,
      )
      self._pairs.append(_Pair(name, rates[name], rows))
    members = collections.defaultdict(list)
    for pair in self._pairs:
      task_space.pair_id(pair.name)  # must know it, or raises
      members[task_space.task_of_pair(pair.name)].append(pair)
    self._tasks = [
      (_Share(sum(pair.rate for pair in pairs)), pairs)
      for pairs in members.values()
    ]

  def __iter__(self) -> "TrainBatches":
    return self

  def __next__(self) -> Batch:
    rows, names = [], []
    for _ in range(self._num_groups):
      task, pairs = min(self._tasks, key=lambda item: item[0].progress)
      for _ in range(self._rows_per_task_group):
        pair = min(pairs, key=lambda pair: pair.progress)
        row, num_examples = pair.rows.take()
        pair.examples += num_examples
        task.examples += num_examples
        rows.append(row)
        names.append(pair.name)
    self._num_batches += 1
    batch = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    self._count(batch)
    if not self._pack:
      for name in _PACKED_ONLY:
        del batch[name]
    language_ids = np.array(
      [
        [self._task_space.language_id(language) for language in split_pair(n)]
        for n in names
      ],
      np.int32,
    )
    batch["source_language"], batch["target_language"] = language_ids.T
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
    number of rows in a batch or group may change.
    """
    names = {pair.name for pair in self._pairs}
    if differing := names ^ set(state["pairs"]):
      raise TaskMoeError(
        "the saved data position is of other pairs than this mixture:"
        f" {', '.join(sorted(differing))} are in one of them only. Set MIXTURE"
        " to the one the run was started with, or start a new run."
      )
    self._num_batches = state["batches"]
    for task, pairs in self._tasks:
      for pair in pairs:
        position = Position(**state["pairs"][pair.name])
        pair.rows.restore(position)
        pair.examples = position.examples
      task.examples = sum(pair.examples for pair in pairs)

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

  def _count(self, batch: Batch) -> None:
    source = (batch["encoder_segment_ids"] > 0).mean(axis=1)
    target = (batch["decoder_segment_ids"] > 0).mean(axis=1)
    self._fills["source_fill"] += source.mean()
    self._fills["target_fill"] += target.mean()
    self._fills["row_fill"] += np.maximum(source, target).mean()
    self._num_batches_here += 1


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


def prefetch(
  batches: TrainBatches, *, depth: int
) -> Iterator[tuple[Batch, dict[str, Any]]]:
  """Makes batches ahead in a thread; gives each with the state after it.

  So a checkpoint stores the position of the step it belongs to, not that of
  the read-ahead. Close it (`contextlib.closing`) to end the thread.

  Args:
    batches: What to iterate over; nobody else may use it meanwhile.
    depth: How many batches may wait.
  """
  ready = queue.Queue()
  free = threading.Semaphore(depth)
  closed = threading.Event()

  def work():
    try:
      while True:
        free.acquire()
        if closed.is_set():
          return
        ready.put((next(batches), batches.state()))
    except BaseException as error:
      ready.put(error)

  thread = threading.Thread(target=work, name="prefetch", daemon=True)
  thread.start()
  try:
    while True:
      item = ready.get()
      if isinstance(item, BaseException):
        raise item
      free.release()
      yield item
  finally:
    closed.set()
    free.release()
    thread.join()

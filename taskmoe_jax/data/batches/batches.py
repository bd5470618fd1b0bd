"""Batches for training: rows of all pairs at the mixture's rates.

A batch is planned before it is made. The plan, which examples share which row,
needs only lengths; every process plans the whole batch, so all agree on it
without communicating, and each makes only the rows that it was given.

`TrainBatches` plans and makes them, `prefetch` does so ahead in a thread.
"""

import collections
import dataclasses
import queue
import threading
from collections.abc import Generator
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from taskmoe_jax.data.batches import packing
from taskmoe_jax.data.batches.packing import Ragged
from taskmoe_jax.data.batches.rows import PairRows, Position
from taskmoe_jax.data.batches.stride_scheduler import (
  Pair,
  PlannedRow,
  StrideScheduler,
)
from taskmoe_jax.data.corpus import Corpus
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


class TrainBatches:
  """Iterates over batches forever; `state` and `restore` are its position.

  The keys are those of docs/design/design.md. The rows come in groups of
  `rows_per_task_group` of one task each, for expert fetch; their pairs may
  differ. An example that does not fit into a row is skipped and counted.

  Attributes:
    origin: Says where the text is read from, for the log.
  """

  def __init__(
    self,
    corpus: Corpus,
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
      corpus: The corpus whose train parts are read, at its rates.
      vocabulary: Vocabulary to tokenise with; must know every target language.
      task_space: Gives the ids of languages, and the task of each pair.
      batch_size: B, the rows of the batch of all processes together.
      rows_per_task_group: Consecutive rows that share a task.
      source_length: S, tokens of a row's source.
      target_length: T, tokens of a row's target.
      pack: Whether short examples share a row.
      seed: Seed of the order of examples.
      rows: Which of the batch's rows this process makes; all unless given. The
        position and the counts are those of the whole batch, on any process.
    """
    self._num_groups = _num_groups(batch_size, rows_per_task_group)
    self._rows_per_task_group = rows_per_task_group
    self._rows = np.arange(batch_size)[slice(None) if rows is None else rows]
    self._lengths = (source_length, target_length)
    self._pack = pack
    self._seed = seed
    self._num_batches = 0
    self._num_batches_here = 0
    self._fills: dict[str, float] = collections.defaultdict(float)

    self.origin = _origin(corpus, in_part=len(self._rows) < batch_size)
    # Ties are broken by the seed, not by the alphabet.
    names = np.random.default_rng(seed).permutation(list(corpus.rates))
    self._pairs = {
      name: _open_pair(
        name,
        corpus,
        vocabulary,
        task_space,
        source_length=source_length,
        target_length=target_length,
        pack=pack,
        seed=seed,
      )
      for name in names.tolist()
    }
    self._scheduler = StrideScheduler(self._pairs.values(), task_space)

  def __iter__(self) -> "TrainBatches":
    return self

  def __next__(self) -> Batch:
    return self.make(self.plan())

  def plan(self) -> list[PlannedRow]:
    """Plans all rows of the next batch, and advances to the one after it."""
    planned = [
      row
      for _ in range(self._num_groups)
      for row in self._scheduler.take(self._rows_per_task_group)
    ]
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
      sides.append(self._pairs[name].examples.tokens(examples))
      symbols.append(np.full(len(examples), self._pairs[name].ids[2]))
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
    ids = [self._pairs[planned[number].pair].ids for number in self._rows]
    languages = np.array(ids, np.int32)[:, :2]
    batch["source_language"], batch["target_language"] = languages.T.copy()
    return batch

  def state(self) -> dict[str, Any]:
    """Returns the position of the next batch, as integers for JSON."""
    return {
      "batches": self._num_batches,
      "order": {
        "seed": self._seed,
        "lengths": list(self._lengths),
        "pack": self._pack,
        "sizes": {
          name: self._pairs[name].examples.size for name in sorted(self._pairs)
        },
      },
      "pairs": {
        name: dataclasses.asdict(self._pairs[name].rows.position)
        for name in sorted(self._pairs)
      },
    }

  def restore(self, state: dict[str, Any]) -> None:
    """Resumes from a `state`; the next batch is the one it was taken before.

    The number of rows in a batch or group may change, and so may the number of
    processes and which rows each makes.

    Raises:
      TaskMoeError: The seed, the lengths, packing or the text are not those of
        the state, so that it would mean another position.
    """
    if differing := self._pairs.keys() ^ state["pairs"].keys():
      raise TaskMoeError(
        "the saved data position is of other pairs than this mixture:"
        f" {', '.join(sorted(differing))} are in one of them only. Set MIXTURE"
        " to the one the run was started with, or start a new run."
      )
    order = self.state()["order"]
    if differing := [n for n in order if order[n] != state["order"][n]]:
      found = ", ".join(f"{n} {state['order'][n]}" for n in differing)
      now = ", ".join(f"{n} {order[n]}" for n in differing)
      raise TaskMoeError(
        f"the saved data position is of {found}, and now there is {now}: it"
        " would mean another place. Set SEED, SOURCE_LENGTH, TARGET_LENGTH,"
        " PACK and MIXTURE to what the run was started with, or start a new"
        " run."
      )
    self._num_batches = state["batches"]
    for name, pair in self._pairs.items():
      pair.rows.restore(Position(**state["pairs"][name]))
    self._scheduler.reorder()

  @property
  def stats(self) -> dict[str, int | float]:
    """Counts of the whole run, and how full rows are since this start.

    `row_fill` is that of each row's fuller side, which is what packing can
    bring to 1; where one language needs more tokens the other side stays
    emptier.
    """
    positions = [pair.rows.position for pair in self._pairs.values()]
    return {
      "examples": sum(position.examples for position in positions),
      "skipped_too_long": sum(p.skipped_too_long for p in positions),
      **{
        name: float(total) / self._num_batches_here
        for name, total in self._fills.items()
      },
    }

  def _count(self, planned: list[PlannedRow]) -> None:
    tokens = [(row.source_tokens, row.target_tokens) for _, row in planned]
    fill = np.array(tokens) / self._lengths
    self._fills["source_fill"] += fill[:, 0].mean()
    self._fills["target_fill"] += fill[:, 1].mean()
    self._fills["row_fill"] += fill.max(axis=1).mean()
    self._num_batches_here += 1


def _origin(corpus: Corpus, *, in_part: bool) -> str:
  """Where text is read from, and what that costs where it is read in part."""
  if corpus.vocabulary is not None or not in_part:
    return corpus.origin
  return (
    f"{corpus.origin}, all of which every process tokenises; a cache (`taskmoe"
    " cache`) spares that"
  )


def _open_pair(
  name: str,
  corpus: Corpus,
  vocabulary: Vocabulary,
  task_space: TaskSpace,
  *,
  source_length: int,
  target_length: int,
  pack: bool,
  seed: int,
) -> Pair:
  """Opens a pair, of which task space and vocabulary must know."""
  task_space.pair_id(name)
  source, target = split_pair(name)
  ids = (
    task_space.language_id(source),
    task_space.language_id(target),
    vocabulary.target_id(target),
  )
  examples = corpus.train_examples(name, vocabulary)
  rows = PairRows(
    name,
    examples,
    source_length=source_length,
    target_length=target_length,
    pack=pack,
    seed=seed,
  )
  return Pair(name, corpus.rates[name], examples, rows, ids)


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
      f"a batch of {batch_size} rows is not a multiple of"
      f" {rows_per_task_group}, the rows of one task that stand together. Set"
      " BATCH_SIZE or ROWS_PER_TASK_GROUP."
    )
  return batch_size // rows_per_task_group


def prefetch(
  batches: TrainBatches, *, depth: int
) -> Generator[tuple[Batch, dict[str, Any]], None, None]:
  """Makes batches ahead in a thread; gives each with the state after it.

  So a checkpoint stores the position of the step it belongs to, not that of
  the read-ahead. Close it (`contextlib.closing`) to end the thread.

  Args:
    batches: What to iterate over; nothing else may use it meanwhile.
    depth: Maximum number of batches that wait.
  """
  ready: queue.Queue[tuple[Batch, dict[str, Any]] | BaseException]
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

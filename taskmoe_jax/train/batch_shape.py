"""Rows and lengths of a training batch."""

import dataclasses

from taskmoe_jax.data.batches.batches import TrainBatches
from taskmoe_jax.data.corpus import Corpus
from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.train.step.microbatches import check_microbatches


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
  """Rows and lengths of a training batch.

  Attributes:
    batch_size: Number of rows, over all devices and hosts.
    rows_per_task_group: Rows come in groups of this many, of one task each, so
      that `expert_fetch` fetches experts once a group.
    source_length: Tokens of a source row, `<2xx>` and end of sentence included.
    target_length: Tokens of a target row, end of sentence included.
    pack: Whether rows hold as many sentences as fit, or one.
    num_microbatches: Number of parts in which a batch is computed, to save
      memory.
  """

  batch_size: int
  rows_per_task_group: int
  source_length: int
  target_length: int
  pack: bool
  num_microbatches: int

  def __post_init__(self):
    # A row holds at least a token and the end of sentence; a source also <2xx>.
    check_at_least(3, "BatchShape", source_length=self.source_length)
    check_at_least(2, "BatchShape", target_length=self.target_length)

  @property
  def lengths(self) -> tuple[int, int]:
    """Tokens of a source row and of a target row."""
    return self.source_length, self.target_length

  def check_divides(self, partitioning: Partitioning) -> None:
    """Refuses a batch whose rows, or groups of rows, devices cannot share."""
    shards = partitioning.num_row_shards
    if self.batch_size % shards:
      raise TaskMoeError(
        f"a batch of {self.batch_size} rows does not divide over {shards}"
        f" devices. Set BATCH_SIZE to a multiple of {shards}, or MeshShape."
      )
    check_microbatches(self.batch_size, self.num_microbatches, shards)

  def batches(
    self, corpus: Corpus, run: Run, partitioning: Partitioning
  ) -> TrainBatches:
    """Reads the rows that lie on this process' devices."""
    shape = dataclasses.asdict(self)
    del shape["num_microbatches"]
    return TrainBatches(
      corpus,
      vocabulary=run.vocabulary,
      task_space=run.task_space,
      seed=run.seed,
      rows=partitioning.rows_here(self.batch_size),
      **shape,
    )

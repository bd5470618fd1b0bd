"""The training loop: batches in, steps, metrics and checkpoints out."""

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
import rich.console

from taskmoe_jax import axes
from taskmoe_jax.data.batches import TrainBatches, prefetch
from taskmoe_jax.data.sources import examples, task_space_of
from taskmoe_jax.data.vocabulary_training import VocabularySource
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.task_space import TaskBy
from taskmoe_jax.train import state as train_state
from taskmoe_jax.train.checkpoints import CheckpointPolicy, Checkpoints
from taskmoe_jax.train.metric_writer import MetricWriter
from taskmoe_jax.train.metrics import MetricSums
from taskmoe_jax.train.optimizers import Optimizer
from taskmoe_jax.train.progress import Progress
from taskmoe_jax.train.run_directory import (
  Run,
  open_run_directory,
  vocabulary_path,
)
from taskmoe_jax.train.step import TrainStep, compile_step

_PREFETCHED_BATCHES = 4
# Sentences of each pair, with which exports are checked.
_SAMPLES = 8
_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchShape:
  """Rows and lengths of a training batch.

  Attributes:
    batch_size: Rows, over all devices and hosts.
    rows_per_task_group: Rows stand in groups of this many of one task each, so
      that `expert_fetch` fetches experts once a group.
    source_length: Tokens of a source row, `<2xx>` and end of sentence included.
    target_length: Tokens of a target row, end of sentence included.
    pack: Whether rows hold as many sentences as fit, or one.
  """

  batch_size: int
  rows_per_task_group: int
  source_length: int
  target_length: int
  pack: bool


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """What a finished run can say of itself.

  Attributes:
    run: What was trained.
    run_dir: Where it is.
    step: Steps done in all.
    seconds: Of this start of the run, compilation included.
    tokens_per_second: Target tokens, over the steps after compilation.
    parameters: Of the whole mixture.
  """

  run: Run
  run_dir: str
  step: int
  seconds: float
  tokens_per_second: float
  parameters: int


def train(
  *,
  model: ModelConfig,
  mixture: Any,
  vocabulary: VocabularySource,
  task_by: TaskBy | str,
  batches: BatchShape,
  optimizer: Callable[..., Optimizer],
  mesh: MeshShape,
  fsdp: bool,
  train_steps: int,
  label_smoothing: float,
  seed: int,
  log_every: int,
  checkpoints: CheckpointPolicy,
  run_dir: str,
  config_text: str,
  console: rich.console.Console | None = None,
) -> TrainResult:
  """Trains a model, or goes on where its run directory stopped.

  In this order: everything is built and checked; the run directory is opened,
  which refuses another model's; the newest complete checkpoint is restored, or
  the state initialised; then step by step until `train_steps`. "Step s" means
  that s updates are done.

  Args:
    model: What to train.
    mixture: The seqio mixture to train on.
    vocabulary: Where the vocabulary is, or how to make it.
    task_by: What rows are routed on.
    batches: Rows and lengths of a batch.
    optimizer: From `train.optimizers`; called with `stacked_axes`.
    mesh: How to arrange all devices.
    fsdp: Whether parameters are also split over the `data` axis.
    train_steps: Steps in all, those before a restart included.
    label_smoothing: See `models.losses.cross_entropy`.
    seed: Of parameters, dropout and the order of the data.
    log_every: Steps between reports.
    checkpoints: When to save.
    run_dir: Where everything goes.
    config_text: The recipe, to be kept beside the checkpoints.
    console: Where progress is shown.

  Raises:
    TaskMoeError: Anything that a user can mend, before step 0.
  """
  if log_every < 1 or checkpoints.every_steps % log_every:
    raise TaskMoeError(
      f"every_steps={checkpoints.every_steps} is no multiple of"
      f" log_every={log_every}, so a restarted run would not report what an"
      " unbroken one does. Set CHECKPOINT_EVERY or LOG_EVERY."
    )
  console = console or rich.console.Console()
  tokens = vocabulary.load_or_train(mixture, vocabulary_path(run_dir))
  run = Run(model, task_space_of(mixture, task_by), tokens)
  partitioning = Partitioning(make_mesh(mesh), fsdp)
  _check_rows(batches, partitioning)
  data = TrainBatches(
    mixture,
    vocabulary=tokens,
    task_space=run.task_space,
    seed=seed,
    **dataclasses.asdict(batches),
  )
  transformer = Transformer(model, len(run.task_space.tasks))
  boxed = train_state.abstract_params(transformer)
  tuned = optimizer(stacked_axes=train_state.stacked_axes(boxed))
  shardings = train_state.state_shardings(boxed, tuned, partitioning)
  step = TrainStep(
    model=transformer,
    optimizer=tuned,
    task_space=run.task_space,
    rows_per_task_group=batches.rows_per_task_group,
    label_smoothing=label_smoothing,
    seed=seed,
  )
  samples = {
    pair: examples(mixture, part="validation", pair=pair, limit=_SAMPLES)
    for pair in run.task_space.pairs
  }
  open_run_directory(run_dir, run, config_text, samples)
  parameters = train_state.parameter_count(boxed)
  console.print(
    f"{parameters / 1e6:.1f}M parameters,"
    f" {len(run.task_space.pairs)} pairs, {len(run.task_space.tasks)} tasks,"
    f" mesh {dict(partitioning.mesh.shape)}, run directory {run_dir}",
    highlight=False,
    soft_wrap=True,
  )
  with Checkpoints(run_dir, checkpoints) as saved:
    if saved.latest_step is None:
      state = train_state.initial_state(transformer, tuned, shardings, seed)
    else:
      abstract = train_state.abstract_state(boxed, tuned, shardings)
      state, position = saved.restore(abstract)
      data.restore(position)
      console.print(f"going on from step {int(state.step)}", highlight=False)
    loop = _Loop(run, step, partitioning, shardings, data, saved, console)
    with MetricWriter(run_dir, resume_step=int(state.step)) as writer:
      seconds, speed = loop(state, train_steps, log_every, writer)
  return TrainResult(run, run_dir, train_steps, seconds, speed, parameters)


@dataclasses.dataclass
class _Loop:
  """The steps of a run, once everything has been built."""

  run: Run
  step: TrainStep
  partitioning: Partitioning
  shardings: train_state.TrainState
  data: TrainBatches
  checkpoints: Checkpoints
  console: rich.console.Console

  def __call__(
    self,
    state: train_state.TrainState,
    last_step: int,
    log_every: int,
    writer: MetricWriter,
  ) -> tuple[float, float]:
    """Trains until `last_step`; returns seconds, and target tokens a second."""
    done = first = int(state.step)
    step = compile_step(self.step, self.shardings, self._batch_shardings())
    sums = MetricSums(self.run.model, self.run.task_space)
    begin = since = time.perf_counter()
    tokens = timed = 0.0
    stream = prefetch(self.data, depth=_PREFETCHED_BATCHES)
    with (
      contextlib.closing(stream),
      Progress(last_step, done, self.console) as progress,
      activate(self.partitioning),
    ):
      while done < last_step:
        batch, position = next(stream)
        state, metrics = step(state, self._on_devices(batch))
        sums.add(metrics)
        done += 1
        if done % log_every == 0 or done == last_step:
          report = sums.report(self.step.optimizer.schedule(done - 1))
          now = time.perf_counter()
          seconds, since = now - since, now
          report |= _data_report(position)
          report["tokens_per_second"] = report.pop("tokens") / seconds
          # The first report holds compilation, and says nothing of speed.
          if done - first > log_every:
            tokens += report["tokens_per_second"] * seconds
            timed += seconds
          writer.write(done, report)
          progress.report(done, report)
        if self.checkpoints.is_due(done, last_step):
          self.checkpoints.save(state, position, self.run)
    return time.perf_counter() - begin, tokens / timed if timed else 0.0

  def _batch_shardings(self) -> Any:
    return self.partitioning.sharding(axes.ACT_BATCH)

  def _on_devices(
    self, batch: Mapping[str, np.ndarray]
  ) -> dict[str, jax.Array]:
    """Spreads rows over the devices, each host over its own."""
    sharding = self._batch_shardings()
    return {
      name: jax.make_array_from_callback(
        rows.shape, sharding, lambda index, rows=rows: rows[index]
      )
      for name, rows in batch.items()
    }


def _check_rows(batches: BatchShape, partitioning: Partitioning) -> None:
  shards = partitioning.num_row_shards
  if batches.batch_size % shards:
    raise TaskMoeError(
      f"a batch of {batches.batch_size} rows does not divide over {shards}"
      f" devices. Set BATCH_SIZE to a multiple of {shards}, or MeshShape."
    )


def _data_report(position: Mapping[str, Any]) -> dict[str, int]:
  """What the data's position says: it counts from the beginning of the run."""
  pairs = position["pairs"].values()
  return {
    f"data/{name}": sum(pair[name] for pair in pairs)
    for name in ("examples", "skipped_too_long")
  }

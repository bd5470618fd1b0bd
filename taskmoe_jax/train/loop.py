"""The training loop: batches in, steps, metrics and checkpoints out."""

import contextlib
import dataclasses
import json
from collections.abc import Sequence
from typing import NamedTuple

import rich.console

from taskmoe_jax.data.batches.batches import TrainBatches
from taskmoe_jax.data.corpus import Corpus, Mixture, samples, task_space_of
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.text.vocabulary_training import VocabularySource
from taskmoe_jax.errors import check_at_least
from taskmoe_jax.hosts import processes
from taskmoe_jax.hosts.memory import keep_freed_memory
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.losses import Objective
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.runs.directory import (
  Run,
  check_run_directory,
  explained_write_errors,
  open_run_directory,
  vocabulary_path,
)
from taskmoe_jax.task_space import TaskBy
from taskmoe_jax.train.batch_shape import BatchShape
from taskmoe_jax.train.checkpoints.checkpoint_policy import CheckpointPolicy
from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints
from taskmoe_jax.train.hooks.divergence import Divergence, DivergencePolicy
from taskmoe_jax.train.hooks.hook import (
  Hook,
  TimeSpent,
  TimeUse,
  check_hooks,
  examples_read,
  in_order,
)
from taskmoe_jax.train.hooks.reporting import (
  DataReports,
  ReportEvery,
  ShowReports,
  StepReports,
  WriteReports,
  say_what_is_trained,
)
from taskmoe_jax.train.hooks.run_lock import HoldLock, RunLock, held
from taskmoe_jax.train.hooks.saving import Interruption, Saving
from taskmoe_jax.train.hooks.stall import Stall
from taskmoe_jax.train.hooks.throughput import Throughput
from taskmoe_jax.train.initial import InitialParameters
from taskmoe_jax.train.monitoring import Monitoring
from taskmoe_jax.train.optimizers import OptimizerMaker
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.train.steps import run_steps
from taskmoe_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """The outcome of a run that has ended.

  Attributes:
    run: What was trained.
    run_dir: The run's directory.
    step: Steps done in all.
    seconds: Time since this start of the run, compilation included.
    tokens_per_second: Target tokens, over the steps after compilation.
    parameters: Number of parameters of the whole mixture.
    stopped: Why it ended before its last step, if it did.
  """

  run: Run
  run_dir: str
  step: int
  seconds: float
  tokens_per_second: float
  parameters: int
  stopped: str | None = None


# Number of sentences of each pair that exports are checked with.
_SAMPLES = 8


def train(
  *,
  model: ModelConfig,
  mixture: Mixture,
  vocabulary: VocabularySource,
  task_by: TaskBy | str,
  batches: BatchShape,
  optimizer: OptimizerMaker,
  mesh: MeshShape,
  fsdp: bool,
  train_steps: int,
  objective: Objective,
  seed: int,
  log_every: int,
  checkpoints: CheckpointPolicy,
  monitoring: Monitoring,
  divergence: DivergencePolicy,
  initial: InitialParameters,
  run_dir: str,
  config_text: str,
  hooks: Sequence[Hook] = (),
  console: rich.console.Console | None = None,
) -> TrainResult:
  """Trains a model, or resumes the run in its run directory.

  Everything is built and checked; the run directory is opened, which refuses
  that of another model; its newest complete checkpoint is restored, or the
  state initialized.

  Args:
    optimizer: From `train.optimizers`, or another function that returns an
      optax transformation; see `optimizers.make_optimizer`.
    fsdp: Whether parameters are also split over the `data` axis.
    train_steps: Steps in all, restarts included; step s is after s updates.
    seed: Seed of parameters, dropout and the order of the data.
    monitoring: How often to evaluate, and what else to log.
    config_text: The recipe, to be kept beside the checkpoints.
    hooks: Hooks of yours; each says its place among the others.

  Raises:
    TaskMoeError: A mistake that a user can correct, before step 0.
  """
  check_at_least(1, "train", train_steps=train_steps)
  check_at_least(0, "train", seed=seed)
  checkpoints.check_reports(log_every)
  check_hooks(hooks)
  console = processes.console(console)
  partitioning = Partitioning(make_mesh(mesh), fsdp)
  if partitioning.platform == "cpu":
    keep_freed_memory()
  batches.check_divides(partitioning)
  processes.check_agreement("recipe", {"the recipe": config_text})
  corpus = open_corpus(mixture)
  task_space = task_space_of(corpus, task_by)
  with explained_write_errors(run_dir), held(run_dir, console) as lock:
    tokens = _vocabulary(vocabulary, corpus, run_dir)
    run = Run(model, task_space, tokens, seed)
    check_run_directory(run_dir, run)
    program = _program(
      run, optimizer, partitioning, batches, objective, monitoring
    )
    data = batches.batches(corpus, run, partitioning)
    _open(run_dir, run, config_text, corpus)
    loop = _Loop(run, run_dir, program, data, batches, lock, console)
    observed = _Observed(monitoring, divergence, corpus, config_text, hooks)
    return loop(train_steps, log_every, checkpoints, observed, initial)


class _Observed(NamedTuple):
  """What hooks are made of."""

  monitoring: Monitoring
  divergence: DivergencePolicy
  corpus: Corpus
  config_text: str
  hooks: Sequence[Hook]


@dataclasses.dataclass
class _Loop:
  """The steps of a run, once everything has been built and checked."""

  run: Run
  run_dir: str
  program: Program
  data: TrainBatches
  batches: BatchShape
  lock: RunLock | None
  console: rich.console.Console

  def __call__(
    self,
    last_step: int,
    log_every: int,
    policy: CheckpointPolicy,
    observed: _Observed,
    initial: InitialParameters,
  ) -> TrainResult:
    """Trains until `last_step`, from the newest checkpoint if there is one."""
    spent = TimeSpent()
    size = self.batches.batch_size
    say_what_is_trained(self._say, self.run, self.run_dir, self.program, size)
    with contextlib.ExitStack() as stack:
      checkpoints = stack.enter_context(Checkpoints(self.run_dir, policy))
      with spent.on(TimeUse.RESTORING):
        state = self._start(checkpoints, initial)
      first = int(state.step)
      throughput = self._throughput()
      hooks = in_order(
        [
          *self._reporting(log_every),
          throughput,
          *self._monitoring(observed, first),
          *self._writers(first, last_step, observed.monitoring),
          *self._guarding(checkpoints, observed),
          *observed.hooks,
        ]
      )
      for hook in hooks:
        stack.callback(hook.close)
      done, stopped = run_steps(
        self.program,
        self.data,
        size,
        state,
        last_step,
        hooks,
        spent,
      )
    if stopped:
      self._say(
        f"{stopped}: saved step {done} of {last_step}; the same command resumes"
      )
    return TrainResult(
      self.run,
      self.run_dir,
      done,
      spent.total,
      throughput.tokens_per_second,
      self.program.num_parameters,
      stopped,
    )

  def _reporting(self, log_every: int) -> list[Hook]:
    """The hooks that begin a report; for the order see `Place`."""
    return [
      Interruption(),
      ReportEvery(log_every),
      StepReports(self.run),
      DataReports(),
    ]

  def _guarding(
    self, checkpoints: Checkpoints, observed: _Observed
  ) -> list[Hook]:
    """The hooks that save, roll back and end a run that hangs."""
    abstract_state = self.program.abstract_state
    description = {
      **self.run.description(),
      "config": observed.config_text,
    }
    return [
      Divergence(observed.divergence, checkpoints, abstract_state, self._say),
      Saving(checkpoints, description),
      Stall(observed.divergence.stall_minutes),
    ]

  def _throughput(self) -> Throughput:
    return Throughput(
      self.program,
      batch_size=self.batches.batch_size,
      lengths=self.batches.lengths,
      first_examples=examples_read(self.data.state()),
    )

  def _monitoring(self, observed: _Observed, first: int) -> list[Hook]:
    """The hooks that add to reports what the recipe asks for."""
    return observed.monitoring.hooks(
      self.run,
      self.run_dir,
      observed.corpus,
      self.program,
      lengths=self.batches.lengths,
      done=first,
      say=self._say,
    )

  def _writers(
    self, first: int, last_step: int, monitoring: Monitoring
  ) -> list[Hook]:
    """The hooks that only process 0 has."""
    if self.lock is None:
      return []
    return [
      WriteReports(
        self.run_dir, first, monitoring.sinks(self.run, self.run_dir, first)
      ),
      ShowReports(last_step, first, self.console),
      HoldLock(self.lock),
    ]

  def _start(
    self, checkpoints: Checkpoints, initial: InitialParameters
  ) -> TrainState:
    """Restores the newest checkpoint, or initializes the parameters."""
    self._say(f"text {self.data.origin}")
    if checkpoints.latest_step is None:
      state = self.program.initial_state()
      return initial.fill(state, self.run, self.program, self._say)
    restored = checkpoints.restore(self.program.abstract_state())
    self.data.restore(restored.position)
    self._say(f"resuming: {restored.description}")
    return restored.state

  def _say(self, text: str) -> None:
    self.console.print(text, highlight=False, markup=False, soft_wrap=True)


def _vocabulary(
  source: VocabularySource, corpus: Corpus, run_dir: str
) -> Vocabulary:
  """What process 0 has loaded or trained, on every process."""
  path = vocabulary_path(run_dir)
  processes.first_does("vocabulary", lambda: source.load_or_train(corpus, path))
  return source.load_or_train(corpus, path)


def _program(
  run: Run,
  optimizer: OptimizerMaker,
  partitioning: Partitioning,
  batches: BatchShape,
  objective: Objective,
  monitoring: Monitoring,
) -> Program:
  return Program.of(
    run,
    optimizer,
    partitioning,
    rows_per_task_group=batches.rows_per_task_group,
    num_microbatches=batches.num_microbatches,
    objective=objective,
    histograms_every=monitoring.histograms_every,
  )


def _open(run_dir: str, run: Run, config_text: str, corpus: Corpus) -> None:
  """Opens the run directory, once all processes have the same run."""
  processes.check_agreement("run", {"the run": json.dumps(run.description())})
  processes.first_does(
    "run directory",
    lambda: open_run_directory(
      run_dir, run, config_text, samples(corpus, _SAMPLES)
    ),
  )

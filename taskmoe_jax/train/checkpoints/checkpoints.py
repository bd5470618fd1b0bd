"""Checkpoints, written by Orbax.

Items of one checkpoint: `params` apart from `optimizer`, because evaluation and
export read only the former; `position` of the data; `run`, what it is a
checkpoint of; `contents`, shapes and checksums of all arrays. Orbax writes to a
temporary name and renames it when it is complete, so that an unfinished one is
never read; and later damage is recognized by the checksums.
"""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.hosts import processes
from taskmoe_jax.runs.checkpoint_folders import (
  checkpoints_folder,
  complete_steps,
  set_aside,
  tidy,
)
from taskmoe_jax.runs.checkpoint_items import (
  first_line,
  read_arrays,
  read_text,
  size,
)
from taskmoe_jax.train.checkpoints.background_writer import BackgroundWriter
from taskmoe_jax.train.checkpoints.checkpoint_policy import CheckpointPolicy
from taskmoe_jax.train.step.state import TrainState

_logger = logging.getLogger(__name__)

# After this long, writing one checkpoint counts as an error.
_TIMEOUT_SECONDS = 3600


class Restored(NamedTuple):
  """What was read, and how.

  Attributes:
    state: The state, on the devices.
    position: The position of the data.
    description: One line for the log: from where, how many bytes and seconds.
  """

  state: TrainState
  position: dict[str, Any]
  description: str


class Checkpoints:
  """The checkpoints of a run directory; a context manager.

  They are written in the background (`background_writer`); `check` raises any
  error of that as soon as it is known, and leaving the context waits for it.
  """

  def __init__(
    self,
    run_dir: epath.PathLike,
    policy: CheckpointPolicy,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._folder = checkpoints_folder(run_dir)
    processes.first_does("checkpoints", lambda: tidy(self._folder))
    self._policy = policy
    self._clock = clock
    self._saved_at = clock()
    self._step: int | None = None  # The checkpoint being written.
    self._manager = ocp.CheckpointManager(
      self._folder,
      item_names=("params", "optimizer", "position", "run", "contents"),
      options=ocp.CheckpointManagerOptions(
        create=False,  # `tidy` has; with all processes named Orbax cannot.
        # Makes Orbax write scores; which of them count, the policy says.
        best_fn=lambda metrics: metrics["score"],
        preservation_policy=policy.preservation(),
        enable_background_delete=False,
        async_options=ocp.AsyncOptions(timeout_secs=_TIMEOUT_SECONDS),
        multiprocessing_options=_all_processes(),
      ),
    )
    self._writer = BackgroundWriter(self._manager)

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, kind, error, traceback) -> None:
    try:
      self.wait()
      self._writer.close()
    except Exception:
      # The first error is the one to be read.
      if error is None:
        raise

  @property
  def latest_step(self) -> int | None:
    return self._manager.latest_step() if self._step is None else self._step

  def is_due(self, step: int, last_step: int, *, may_ask: bool = True) -> bool:
    """Whether to save after this step.

    Args:
      step: Steps done.
      last_step: The step after which the run ends.
      may_ask: Whether it may be time by the clock. All hosts follow the clock
        of the first one, which takes a message: not after every step.
    """
    policy = self._policy
    if step % policy.every_steps == 0 or step == last_step:
      return True
    if policy.every_minutes is None or not may_ask:
      return False
    minutes = (self._clock() - self._saved_at) / 60
    return _as_the_first_says(minutes >= policy.every_minutes)

  def save(
    self,
    state: TrainState,
    position: Mapping[str, Any],
    description: Mapping[str, Any],
    metrics: Mapping[str, Any] | None = None,
  ) -> None:
    """Begins to write; returns as soon as the state may change again.

    Args:
      state: Its step names the checkpoint.
      position: The position of the data after that step.
      description: The run that this is a checkpoint of, and its recipe; for
        people and tools that have the checkpoint alone.
      metrics: Metrics of the step, by name; the policy's may be among them.

    Raises:
      TaskMoeError: The checkpoint before could not be written; or this one, if
        that is known already.
    """
    self.wait()
    self._saved_at = self._clock()
    self._step = int(state.step)
    with self._naming_what_fails():
      self._writer.begin(
        self._step,
        _items(state),
        {"position": dict(position), "run": dict(description)},
        self._policy.score(metrics or {}),
      )

  def check(self) -> None:
    """Raises the error of writing in the background, if there was one."""
    if self._writer.is_done:
      self.wait()

  def wait(self) -> None:
    """Waits until what is being written has been written, or raises."""
    with self._naming_what_fails():
      self._writer.wait()
    self._step = None

  def restore(self, abstract: TrainState) -> Restored:
    """Reads the newest complete checkpoint and the position of its data.

    A damaged one is moved aside, with a warning, and the one before it is read.

    Args:
      abstract: Shapes, dtypes and shardings of the state to fill; the mesh may
        differ from that of the run that wrote it.

    Raises:
      TaskMoeError: The state has other arrays than this run's; or all
        checkpoints are damaged, and remain where they are.
    """
    self.wait()
    steps = sorted(self._manager.all_steps(), reverse=True)
    damaged: list[int] = []
    for step in steps:
      restored, reason = self._try_restore(step, abstract)
      if _all_say(restored is not None):
        assert restored is not None
        if damaged:
          set_aside(self._folder, damaged)
          self._manager.reload()
        return restored
      damaged.append(step)
      _logger.warning(
        "checkpoint %d in %s is damaged (%s)", step, self._folder, reason
      )
    raise TaskMoeError(
      f"all checkpoints in {str(self._folder)!r} are damaged"
      f" ({', '.join(map(str, steps))}); the newest: {reason}. Copy one back"
      " from elsewhere, or set RUN_DIR to another folder to start over."
    )

  def _try_restore(
    self, step: int, abstract: TrainState
  ) -> tuple[Restored | None, str]:
    """Reads one, or returns why it could not be read."""
    begin = time.perf_counter()
    folder = self._folder / str(step)
    try:
      arrays = read_arrays(folder, _items(abstract))
      position = read_text(folder, "position")
      read_text(folder, "run")
    except TaskMoeError:
      raise
    # Orbax, TensorStore and JSON have no error in common.
    except Exception as error:
      return None, first_line(error)
    optimizer = arrays["optimizer"]
    state = TrainState(
      optimizer["step"],
      arrays["params"],
      optimizer["state"],
      optimizer["skipped"],
    )
    seconds = time.perf_counter() - begin
    description = (
      f"step {step} restored from {folder}: {size(state) / 1e6:.1f} MB in"
      f" {seconds:.1f} s"
    )
    return Restored(state, position, description), ""

  @contextlib.contextmanager
  def _naming_what_fails(self) -> Iterator[None]:
    """Turns an error that Orbax raises while writing into a message."""
    step = self._step
    try:
      yield
    except Exception as error:
      good = self.last_good()
      self._step = None
      raise TaskMoeError(
        f"checkpoint {step} could not be written to {str(self._folder)!r}"
        f" ({first_line(error)}); {good}. Free space there, or correct its"
        " permissions, and start the run again."
      ) from error

  def last_good(self) -> str:
    """Names the newest checkpoint that is on disk, for a message."""
    steps = [
      step for step in complete_steps(self._folder) if step != self._step
    ]
    if not steps:
      return "there is no checkpoint yet"
    return f"the last good checkpoint is {self._folder / str(max(steps))}"


def _items(state: TrainState) -> dict[str, Any]:
  """The items that hold arrays, of a state or of its shapes."""
  return {
    "params": state.params,
    "optimizer": {
      "step": state.step,
      "skipped": state.skipped,
      "state": state.optimizer_state,
    },
  }


def _as_the_first_says(value: bool) -> bool:
  """The first process's value, on all of them."""
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.broadcast_one_to_all(value))


def _all_say(value: bool) -> bool:
  if jax.process_count() == 1:
    return value
  return bool(multihost_utils.process_allgather(value).all())


def _all_processes() -> ocp.options.MultiprocessingOptions:
  """Lets Orbax synchronize processes without their devices.

  It does so if all are named one by one. Otherwise its threads would run
  collectives beside those of the step, and two processes that run them in
  different orders wait for each other for ever.
  """
  if jax.process_count() == 1:
    return ocp.options.MultiprocessingOptions()
  return ocp.options.MultiprocessingOptions(
    active_processes=set(range(jax.process_count()))
  )

"""Checkpoints, written by Orbax.

Items of one checkpoint: `params` apart from `optimizer`, because evaluation and
export read only the former; `position` of the data; `run`, what it is a
checkpoint of. Orbax writes to a temporary name and renames it when all is
there, so that an unfinished one is never read.
"""

import dataclasses
import logging
from collections.abc import Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import PyTree

from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.train.state import TrainState

_logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class CheckpointPolicy:
  """When to save and what to keep.

  Attributes:
    every_steps: A checkpoint is written after each so many steps, and after the
      last one.
    keep: How many of the newest stay on disk.
  """

  every_steps: int
  keep: int

  def __post_init__(self):
    check_at_least(1, "CheckpointPolicy", **dataclasses.asdict(self))


class Checkpoints:
  """The checkpoints of a run directory; a context manager.

  Writing goes on in the background; leaving the context waits for it, and
  raises what went wrong in it.
  """

  def __init__(self, run_dir: epath.PathLike, policy: CheckpointPolicy):
    folder = (epath.Path(run_dir) / "checkpoints").resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_unfinished(folder)
    self._policy = policy
    self._manager = ocp.CheckpointManager(
      folder,
      item_names=("params", "optimizer", "position", "run"),
      options=ocp.CheckpointManagerOptions(
        max_to_keep=policy.keep,
        enable_background_delete=False,
      ),
    )

  def __enter__(self) -> "Checkpoints":
    return self

  def __exit__(self, *_) -> None:
    self._manager.close()

  @property
  def latest_step(self) -> int | None:
    return self._manager.latest_step()

  def is_due(self, step: int, last_step: int) -> bool:
    return step % self._policy.every_steps == 0 or step == last_step

  def save(
    self,
    state: TrainState,
    position: Mapping[str, Any],
    description: Mapping[str, Any],
  ) -> None:
    """Begins to write; returns as soon as the state may change again.

    Args:
      state: Its step names the checkpoint.
      position: Of the data, after that step.
      description: What run this is a checkpoint of, and its recipe; for people
        and tools that have the checkpoint alone.
    """
    step = int(state.step)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardSave(state.params),
        optimizer=ocp.args.StandardSave(
          {
            "step": state.step,
            "skipped": state.skipped,
            "state": state.optimizer_state,
          }
        ),
        position=ocp.args.JsonSave(dict(position)),
        run=ocp.args.JsonSave(dict(description)),
      ),
      force=True,
    )

  def restore(self, abstract: TrainState) -> tuple[TrainState, dict[str, Any]]:
    """Reads the newest complete checkpoint and the position of its data.

    Args:
      abstract: Shapes, dtypes and shardings of the state to fill; the mesh may
        be another than that of the run that wrote it.
    """
    step = self.latest_step
    _logger.info("restoring step %d from %s", step, self._manager.directory)
    items = self._manager.restore(
      step,
      args=ocp.args.Composite(
        params=ocp.args.StandardRestore(abstract.params),
        optimizer=ocp.args.StandardRestore(
          {
            "step": abstract.step,
            "skipped": abstract.skipped,
            "state": abstract.optimizer_state,
          }
        ),
        position=ocp.args.JsonRestore(),
      ),
    )
    optimizer = items.optimizer
    state = TrainState(
      optimizer["step"], items.params, optimizer["state"], optimizer["skipped"]
    )
    return state, items.position


def _remove_unfinished(folder: epath.Path) -> None:
  """Removes what a killed run has left half-written.

  Orbax can do it too (`cleanup_tmp_directories`), but in a thread that closing
  the manager does not wait for: two managers opened one soon after the other
  then remove the same folder, and the later one fails to save.
  """
  if jax.process_index() == 0:
    for unfinished in ocp.utils.tmp_checkpoints(folder):
      unfinished.get().rmtree()


def checkpoint_folder(
  run_dir: epath.PathLike, step: int | None = None
) -> tuple[epath.Path, int]:
  """The folder of one complete checkpoint, the newest unless told otherwise.

  Returns:
    The folder, and its step.

  Raises:
    TaskMoeError: There is no checkpoint (of that step).
  """
  folder = (epath.Path(run_dir) / "checkpoints").resolve()
  steps = sorted(ocp.utils.checkpoint_steps(folder))
  if not steps or step not in (None, *steps):
    found = ", ".join(map(str, steps)) or "none"
    wanted = "checkpoint" if step is None else f"checkpoint {step}"
    raise TaskMoeError(
      f"{str(run_dir)!r} has no {wanted}: complete ones are {found}. Train it"
      " first, or set --step to one of these."
    )
  step = steps[-1] if step is None else step
  return folder / str(step), step


def restore_params(
  run_dir: epath.PathLike, shapes: PyTree, step: int | None = None
) -> tuple[PyTree, int]:
  """Reads the parameters of one checkpoint; see `checkpoint_folder`.

  Args:
    run_dir: The run directory.
    shapes: Shapes and dtypes, with shardings if they are to be spread.
    step: Which checkpoint.

  Returns:
    Parameters, and their step.
  """
  folder, step = checkpoint_folder(run_dir, step)
  with ocp.StandardCheckpointer() as checkpointer:
    params = checkpointer.restore(folder / "params", shapes)
  return jax.block_until_ready(params), step

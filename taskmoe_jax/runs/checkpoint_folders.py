"""The folder of a run's checkpoints: what is in it, and what must leave it."""

import json
import logging
import time
from collections.abc import Iterable

import orbax.checkpoint as ocp
from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.hosts import processes

_logger = logging.getLogger(__name__)


def checkpoints_folder(run_dir: epath.PathLike) -> epath.Path:
  return (epath.Path(run_dir) / "checkpoints").resolve()


def complete_steps(folder: epath.Path) -> list[int]:
  """The steps of all checkpoints that were written to the end, in order."""
  return sorted(ocp.utils.checkpoint_steps(folder))


def checkpoint_folder(
  run_dir: epath.PathLike, step: int | None = None
) -> tuple[epath.Path, int]:
  """The folder of one complete checkpoint, the newest unless told otherwise.

  Returns:
    The folder, and its step.

  Raises:
    TaskMoeError: There is no checkpoint (of that step).
  """
  folder = checkpoints_folder(run_dir)
  steps = complete_steps(folder)
  if not steps or step not in (None, *steps):
    found = ", ".join(map(str, steps)) or "none"
    wanted = "checkpoint" if step is None else f"checkpoint {step}"
    raise TaskMoeError(
      f"{str(run_dir)!r} has no {wanted}: complete ones are {found}"
      f"{_being_written(folder)}. Train it first, or set --step to one of"
      " these."
    )
  step = steps[-1] if step is None else step
  return folder / str(step), step


def _being_written(folder: epath.Path) -> str:
  """Says which checkpoints are there and not whole."""
  if not folder.exists():
    return ""
  found = ocp.utils.tmp_checkpoints(folder)
  steps = sorted({unfinished.get().name.split(".")[0] for unfinished in found})
  return (
    f" ({', '.join(steps)} is still being written, or its run was killed)"
    if steps
    else ""
  )


def tidy(folder: epath.Path) -> None:
  """Makes the folder, or takes away what would stop a run from going on.

  That is what a killed run has left half-written. Orbax can remove it too
  (`cleanup_tmp_directories`), but in a thread that closing the manager does not
  wait for: two managers opened one soon after the other then remove the same
  folder, and the later one fails to save. And it is scores that cannot be read,
  on which Orbax would fail.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for unfinished in ocp.utils.tmp_checkpoints(folder):
    unfinished.get().rmtree()
  for step in complete_steps(folder):
    scores = folder / str(step) / "metrics" / "metrics"
    try:
      json.loads(scores.read_text())["score"]
    except FileNotFoundError:
      pass
    except (ValueError, KeyError, TypeError):
      _logger.warning("the score of checkpoint %d is damaged: forgotten", step)
      scores.unlink()


def set_aside(folder: epath.Path, steps: Iterable[int]) -> None:
  """Moves damaged checkpoints to where no step will be written again."""
  aside = folder.parent / "damaged"

  def move():
    aside.mkdir(exist_ok=True)
    for step in steps:
      target = aside / f"{step}-{time.time_ns()}"
      (folder / str(step)).rename(target)
      _logger.warning("moved checkpoint %d to %s", step, target)

  processes.first_does("damaged checkpoints", move)

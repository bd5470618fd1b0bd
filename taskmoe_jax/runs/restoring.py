"""From a run directory to parameters, and to a translator."""

import logging

import jax
from etils import epath
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models import parameters
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.runs.checkpoint_folders import (
  checkpoint_folder,
  complete_steps,
)
from taskmoe_jax.runs.checkpoint_items import first_line, read_arrays
from taskmoe_jax.runs.directory import load_run

_logger = logging.getLogger(__name__)


def restore_params(
  run_dir: epath.PathLike, shapes: PyTree, step: int | None = None
) -> tuple[PyTree, int]:
  """Reads the parameters of one checkpoint, the newest unless told otherwise.

  Args:
    run_dir: The run directory.
    shapes: Shapes and dtypes, with shardings if they are to be spread.
    step: Which checkpoint; if none is named, a damaged one is passed over, with
      a warning.

  Returns:
    Parameters, and their step.

  Raises:
    TaskMoeError: There is no checkpoint (of that step), or it is damaged.
  """
  newest, chosen = checkpoint_folder(run_dir, step)
  steps = complete_steps(newest.parent)
  for candidate in [chosen] if step is not None else steps[::-1]:
    path = newest.parent / str(candidate)
    try:
      return read_arrays(path, {"params": shapes})["params"], candidate
    except TaskMoeError:
      raise
    except Exception as error:
      reason = first_line(error)
      _logger.warning("checkpoint %s is damaged (%s)", path, reason)
  raise TaskMoeError(
    f"checkpoint {candidate} of {str(run_dir)!r} is damaged ({reason});"
    f" complete ones are {', '.join(map(str, steps))}. Set --step to another."
  )


def load_translator(
  run_dir: epath.PathLike,
  *,
  step: int | None = None,
  mesh: MeshShape | None = None,
) -> tuple[Translator, int]:
  """Restores the parameters of a run, each device only its own part of them.

  Args:
    run_dir: A run directory; any path that `epath` understands.
    step: Which checkpoint; the newest unless given.
    mesh: How to arrange all devices; one device unless given.

  Returns:
    The translator, and the step of its parameters.
  """
  run = load_run(run_dir)
  devices = jax.devices() if mesh else jax.local_devices()[:1]
  partitioning = Partitioning(make_mesh(mesh or MeshShape(), devices))
  boxed = parameters.abstract_params(
    Transformer(run.model, len(run.task_space.tasks))
  )
  shapes = parameters.with_shardings(
    nn.unbox(boxed), parameters.parameter_shardings(boxed, partitioning)
  )
  params, step = restore_params(run_dir, shapes, step)
  translator = Translator(
    run.model,
    params,
    run.task_space,
    run.vocabulary,
    partitioning=partitioning,
  )
  return translator, step

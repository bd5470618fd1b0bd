"""From a run directory to parameters: one checkpoint, or the mean of the last.

The mean often translates better; it is written as a run directory of its own.
"""

import logging

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.files import write_whole
from taskmoe_jax.models import parameters
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.runs.checkpoint_folders import (
  checkpoint_folder,
  checkpoints_folder,
  complete_steps,
)
from taskmoe_jax.runs.checkpoint_items import (
  first_line,
  read_arrays,
  saved_items,
)
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


_COPIED = ("config.gin", "vocabulary.model", "samples.json", "run.json")


def average(run_dir: epath.PathLike, *, out: epath.PathLike, last: int) -> int:
  """Writes a run directory whose parameters are the mean of the last ones'.

  It can be evaluated, exported and translated with, and a run can begin with
  its parameters (INITIAL_RUN); none can resume from it, as it has no optimizer.

  Args:
    run_dir: A run directory.
    out: Where to write; must not exist.
    last: How many checkpoints.

  Returns:
    The step of the newest, which is that of the mean.

  Raises:
    TaskMoeError: There are fewer checkpoints, or `out` exists.
  """
  check_at_least(1, "average", last=last)
  run = load_run(run_dir)
  out = epath.Path(out)
  if out.exists():
    raise TaskMoeError(f"{str(out)!r} exists. Set --out to another folder.")
  steps = complete_steps(checkpoints_folder(run_dir))
  if len(steps) < last:
    raise TaskMoeError(
      f"{str(run_dir)!r} has {len(steps)} checkpoints, not {last}. Set --last"
      " to at most as many, and CHECKPOINTS_KEPT for runs to come."
    )
  steps = steps[-last:]
  model = Transformer(run.model, len(run.task_space.tasks))
  device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
  shapes = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
    nn.unbox(parameters.abstract_params(model)),
  )
  total = None
  for step in steps:
    params, _ = restore_params(run_dir, shapes, step)
    total = params if total is None else jax.tree.map(jnp.add, total, params)
  mean = jax.tree.map(lambda leaf: leaf / last, total)
  _write(run_dir, out, mean, steps, run.description())
  return steps[-1]


def _write(run_dir, out, params, steps, description) -> None:
  """`run.json` last: without it the folder is not a run directory."""
  folder = checkpoints_folder(out) / str(steps[-1])
  description = {**description, "averaged": steps}
  names = ("params", "run", "contents")
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*names)) as writer:
    writer.save(
      folder, args=saved_items({"params": params}, {"run": description})
    )
  for name in _COPIED:
    write_whole(out / name, (epath.Path(run_dir) / name).read_bytes())

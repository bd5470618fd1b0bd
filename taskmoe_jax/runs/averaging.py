"""The mean of a run's last checkpoints, which often translates better."""

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from etils import epath
from flax import linen as nn

from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.files import write_whole
from taskmoe_jax.models import parameters
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.runs.checkpoint_folders import (
  checkpoints_folder,
  complete_steps,
)
from taskmoe_jax.runs.checkpoint_items import saved_items
from taskmoe_jax.runs.directory import load_run
from taskmoe_jax.runs.restoring import restore_params

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

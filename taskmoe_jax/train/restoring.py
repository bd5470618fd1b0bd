"""From a run directory to a translator."""

import jax
from etils import epath
from flax import linen as nn

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.train import state as train_state
from taskmoe_jax.train.checkpoints import restore_params
from taskmoe_jax.train.run_directory import load_run


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
  boxed = train_state.abstract_params(
    Transformer(run.model, len(run.task_space.tasks))
  )
  shapes = train_state.with_shardings(
    nn.unbox(boxed), train_state.parameter_shardings(boxed, partitioning)
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

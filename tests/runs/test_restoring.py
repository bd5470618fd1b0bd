"""A checkpoint does not know on which mesh it was written."""

import itertools

import jax
import numpy as np
import optax
import pytest

from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.train import optimizers
from taskmoe_jax.train.checkpoints.checkpoint_policy import CheckpointPolicy
from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints
from taskmoe_jax.train.step import state as train_state

POLICY = CheckpointPolicy(every_steps=1, keep=1)
# Shape, FSDP, and how many experts and how much of a width a device has.
MESHES = {
  "one device": (MeshShape(data=1), False, (1, 4, 8, 6)),
  "data": (MeshShape(data=8), False, (1, 4, 8, 6)),
  "data, expert, model": (
    MeshShape(data=2, expert=2, model=2),
    False,
    (1, 2, 8, 3),
  ),
  "slices with FSDP": (
    MeshShape(slices=2, data=2, expert=2),
    True,
    (1, 2, 4, 6),
  ),
}


@pytest.fixture
def states(model_config):
  """On each mesh, where its arrays lie: a whole state, of Adafactor's too."""
  mixture = model_config(moe={"expert_mlp_dim": 6}).encoder.moe
  config = model_config(
    vocab_size=20,
    encoder=StackConfig(num_layers=1, mlp_dims=(), moe=mixture),
    decoder=StackConfig(num_layers=1, mlp_dims=(10,)),
  )
  boxed = parameters.abstract_params(Transformer(config, 3))
  optimizer = optimizers.adafactor(
    optax.constant_schedule(0.1),
    parameter_scale=True,
    stacked_axes=train_state.stacked_axes(boxed),
  )

  def on(shape, fsdp):
    devices = jax.devices()[: 1 if shape.data == 1 else 8]
    where = Partitioning(make_mesh(shape, devices), fsdp)
    return train_state.abstract_state(
      boxed, optimizer, train_state.state_shardings(boxed, optimizer, where)
    )

  return {name: on(shape, fsdp) for name, (shape, fsdp, _) in MESHES.items()}


@pytest.mark.expensive("it compiles or runs whole programs")
def test_every_mesh_restores_what_every_other_has_written(states, tmp_path):
  """All bits, and each device its own part."""
  generator = np.random.default_rng(3)
  numbers = jax.tree.map(
    lambda leaf: generator.normal(size=leaf.shape, scale=99).astype(leaf.dtype),
    states["one device"],
  ).replace(step=np.int32(7))
  assert len({leaf.tobytes() for leaf in jax.tree.leaves(numbers)}) > 40
  for name, abstract in states.items():
    with Checkpoints(tmp_path / name, POLICY) as checkpoints:
      placed = jax.tree.map(
        lambda array, leaf: jax.device_put(array, leaf.sharding),
        numbers,
        abstract,
      )
      checkpoints.save(placed, {"batches": 7}, {"seed": 3})
  for before, name in itertools.product(states, states):
    with Checkpoints(tmp_path / before, POLICY) as checkpoints:
      state = checkpoints.restore(states[name]).state
    jax.tree.map(np.testing.assert_array_equal, state, numbers)
    experts = state.params["encoder"]["blocks"]["layer_0"]["moe"]["experts"]
    shards = {shard.data.shape for shard in experts["wi"].addressable_shards}
    assert shards == {MESHES[name][2]}, (before, name)

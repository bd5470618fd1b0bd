"""Memory and FLOPs of a program, by hand and against XLA."""

import functools

import jax
import optax
import pytest

from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.losses import Objective
from taskmoe_jax.partitioning.meshes import (
  MeshShape,
  make_mesh,
  simulated_devices,
)
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.planning.inspection import abstract_batch, inspect, program_of
from taskmoe_jax.train.batch_shape import BatchShape
from taskmoe_jax.train.optimizers import adamw

BATCHES = BatchShape(
  batch_size=32,
  rows_per_task_group=2,
  source_length=24,
  target_length=20,
  pack=True,
  num_microbatches=1,
)


@pytest.fixture
def build(model_config, space, monitoring):
  """Builds a program on simulated devices, or on these."""

  def build(mesh, *, devices=None, fsdp=False, **changes):
    devices = devices or simulated_devices(mesh.data * mesh.expert * mesh.model)
    settings = {
      "model": model_config(embed_dim=64, vocab_size=600, **changes),
      "optimizer": lambda stacked_axes: adamw(
        optax.constant_schedule(0.1),
        b1=0.9,
        b2=0.98,
        eps=1e-9,
        stacked_axes=stacked_axes,
      ),
      "batches": BATCHES,
      "seed": 0,
      "objective": Objective(label_smoothing=0.0, z_loss_weight=0.0),
      "monitoring": monitoring(),
    }
    partitioning = Partitioning(make_mesh(mesh, devices), fsdp)
    return program_of(settings, partitioning, space)

  return build


@pytest.mark.slow
def test_what_a_device_holds(build):
  mesh = MeshShape(data=2, expert=2, model=1)
  dense = StackConfig(num_layers=1, mlp_dims=(7,))
  found = inspect(build(mesh, fsdp=True, decoder=dense), BATCHES)
  by_path = {array.path: array for array in found.parameters}
  # Experts [1, 4, 64, 5] in float32: over experts, and by fsdp over D.
  experts = by_path["encoder/blocks/layer_1/moe/experts/wi"]
  assert experts.split == ((), ("expert",), ("data",), ())
  assert experts.total_bytes == 4 * 4 * 64 * 5
  assert experts.device_bytes == experts.total_bytes // 4
  norm = by_path["encoder/final_norm/scale"]
  assert norm.split == (("data",),)
  # AdamW keeps two numbers of each parameter, where the parameter lies.
  states = sum(
    array.device_bytes
    for array in found.optimizer_state
    if array.dtype == "float32"
  )
  assert states == 2 * found.gradient_bytes
  assert found.gradient_bytes == sum(x.device_bytes for x in found.parameters)
  assert found.device_bytes == (
    2 * found.gradient_bytes
    + sum(x.device_bytes for x in found.optimizer_state)
    + found.activation_bytes
  )
  assert (found.source_tokens, found.target_tokens) == (32 * 24, 32 * 20)
  assert found.dispatch["encoder"].startswith("dropless: ")


@pytest.mark.expensive("it compiles or runs whole programs")
def test_activations_as_xla_needs_them(build):
  """XLA also needs room for gradients and for what it is at."""
  dense = StackConfig(num_layers=1, mlp_dims=(100,))
  build = functools.partial(build, encoder=dense, decoder=dense)
  program = build(MeshShape(data=4), devices=jax.devices()[:4])
  with activate(program.partitioning):
    compiled = (
      program.compiled_step()
      .lower(program.abstract_state(), abstract_batch(BATCHES))
      .compile()
    )
  needed = compiled.memory_analysis().temp_size_in_bytes
  found = inspect(build(MeshShape(data=4)), BATCHES)
  estimate = found.activation_bytes + found.gradient_bytes
  assert 0.6 < estimate / needed < 1.2
  # Dense, and nothing is computed twice.
  assert found.hardware_flops / found.model_flops == pytest.approx(1, abs=0.01)

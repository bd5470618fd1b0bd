"""What a training will need, found out in shapes alone.

Nothing is compiled and no parameter exists: a model of 13 billion parameters on
512 devices is looked at in seconds, on a laptop.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.models import parameters
from taskmoe_jax.models.flops import program_flops, token_flops
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.planning.activations import activation_bytes
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.loop import BatchShape
from taskmoe_jax.train.program import Program
from taskmoe_jax.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True)
class Placed:
  """An array of the state, and where it lies.

  Attributes:
    path: Such as `encoder/final_norm/scale`.
    shape: Of the whole array.
    dtype: Of its numbers.
    logical_axes: A name, or None, for each axis.
    split: The mesh axes that each axis is split over.
    device_bytes: What one device holds of it.
  """

  path: str
  shape: tuple[int, ...]
  dtype: str
  logical_axes: tuple[str | None, ...]
  split: tuple[tuple[str, ...], ...]
  device_bytes: int

  @property
  def size(self) -> int:
    return math.prod(self.shape)

  @property
  def total_bytes(self) -> int:
    return self.size * jnp.dtype(self.dtype).itemsize


@dataclasses.dataclass(frozen=True)
class Inspection:
  """What `inspect` has found.

  Attributes:
    parameters: Every parameter.
    optimizer_state: Every array of the optimizer.
    gradient_bytes: A device's gradients, as many as its parameters.
    activation_bytes: Estimate of what a device keeps of the forward pass for
      the backward pass: what JAX saves, before XLA fuses some of it away.
    model_flops: Of a step, forward and backward; see `models.flops`.
    hardware_flops: Likewise, of all devices together.
    source_tokens: Places for source tokens in a batch.
    target_tokens: Places for target tokens in a batch.
    dispatch: Which engine each MoE stack trains with, and why.
  """

  parameters: list[Placed]
  optimizer_state: list[Placed]
  gradient_bytes: int
  activation_bytes: int
  model_flops: int
  hardware_flops: int
  source_tokens: int
  target_tokens: int
  dispatch: Mapping[str, str]

  @property
  def device_bytes(self) -> int:
    """Of one device: parameters, optimizer, gradients, activations."""
    arrays = [*self.parameters, *self.optimizer_state]
    return (
      sum(array.device_bytes for array in arrays)
      + self.gradient_bytes
      + self.activation_bytes
    )


class _Untrained(Vocabulary):
  """In place of a vocabulary, of which shapes depend on the size alone."""

  def __init__(self):
    self.origin = "nowhere"

  def __len__(self):
    return 0


def program_of(
  settings: Mapping[str, Any],
  partitioning: Partitioning,
  task_space: TaskSpace,
) -> Program:
  """The program that `loop.train` would run, without a vocabulary or data.

  Args:
    settings: Arguments of `loop.train`, of which those are read that shape it.
    partitioning: The mesh, which may be of simulated devices.
    task_space: That of the mixture.
  """
  batches: BatchShape = settings["batches"]
  batches.check_divides(partitioning)
  run = Run(settings["model"], task_space, _Untrained(), settings["seed"])
  return Program.of(
    run,
    settings["optimizer"],
    partitioning,
    rows_per_task_group=batches.rows_per_task_group,
    num_microbatches=batches.num_microbatches,
    objective=settings["objective"],
    histograms_every=settings["monitoring"].histograms_every,
  )


def inspect(program: Program, batches: BatchShape) -> Inspection:
  """Finds out what each device will hold and compute.

  Args:
    program: On any mesh, of `simulated_devices` for one.
    batches: What it will be fed.
  """
  model = program.step.model.config
  parameters = _placed_parameters(program)
  lengths = {
    "source_length": batches.source_length,
    "target_length": batches.target_length,
  }
  source, target = (batches.batch_size * n for n in lengths.values())
  batch = abstract_batch(batches)
  with activate(program.partitioning):
    # Shapes may not stand where the metrics want arrays.
    hardware = program_flops(
      lambda state, batch: program.step(state, batch)[0],
      program.abstract_state(),
      batch,
    )
    activations = activation_bytes(program, batch)
  choices = program.dispatch_choices(batches.batch_size)
  return Inspection(
    parameters=parameters,
    optimizer_state=_placed_optimizer_state(program),
    gradient_bytes=sum(array.device_bytes for array in parameters),
    activation_bytes=activations,
    model_flops=token_flops(model, **lengths).training_step(source, target),
    hardware_flops=hardware,
    source_tokens=source,
    target_tokens=target,
    dispatch={name: str(choice) for name, choice in choices.items()},
  )


def abstract_batch(batches: BatchShape) -> dict[str, jax.ShapeDtypeStruct]:
  """Names, shapes and dtypes of a batch (docs/design/design.md, Batch)."""
  rows = (batches.batch_size,)
  source, target = (
    (*rows, length) for length in (batches.source_length, batches.target_length)
  )
  shapes = {
    "encoder_input_tokens": source,
    "decoder_input_tokens": target,
    "decoder_target_tokens": target,
    "decoder_loss_weights": target,
    "source_language": rows,
    "target_language": rows,
  }
  if batches.pack:
    shapes |= {
      "encoder_segment_ids": source,
      "encoder_positions": source,
      "decoder_segment_ids": target,
      "decoder_positions": target,
    }
  return {
    name: jax.ShapeDtypeStruct(
      shape, jnp.float32 if name == "decoder_loss_weights" else jnp.int32
    )
    for name, shape in shapes.items()
  }


def _placed_parameters(program: Program) -> list[Placed]:
  return _placed(
    nn.unbox(program.params),
    parameters.logical_axes(program.params),
    program.shardings.params,
  )


def _placed_optimizer_state(program: Program) -> list[Placed]:
  shapes = program.abstract_state().optimizer_state
  no_axes = jax.tree.map(lambda leaf: (), shapes)
  return _placed(shapes, no_axes, program.shardings.optimizer_state)


def _placed(shapes: PyTree, names: PyTree, shardings: PyTree) -> list[Placed]:
  found = []
  leaves, structure = jax.tree_util.tree_flatten_with_path(shapes)
  for (path, leaf), axes_of, sharding in zip(
    leaves,
    structure.flatten_up_to(names),
    structure.flatten_up_to(shardings),
    strict=True,
  ):
    shard = math.prod(sharding.shard_shape(leaf.shape))
    found.append(
      Placed(
        path="/".join(_key(key) for key in path),
        shape=leaf.shape,
        dtype=str(leaf.dtype),
        logical_axes=tuple(axes_of),
        split=_split(sharding, leaf.ndim),
        device_bytes=shard * leaf.dtype.itemsize,
      )
    )
  return found


def _key(key: Any) -> str:
  """An entry of a path: of a dict, a tuple, or a dataclass."""
  for name in ("key", "name", "idx"):
    if hasattr(key, name):
      return str(getattr(key, name))
  return str(key)


def _split(
  sharding: jax.sharding.NamedSharding, num_axes: int
) -> tuple[tuple[str, ...], ...]:
  """The mesh axes of each axis, without those of a single device."""
  entries = (*sharding.spec, *[None] * (num_axes - len(sharding.spec)))
  return tuple(
    tuple(
      name
      for name in ((entry,) if isinstance(entry, str) else entry or ())
      if sharding.mesh.shape[name] > 1
    )
    for entry in entries
  )

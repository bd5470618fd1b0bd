"""What a training run will need, found from shapes alone.

Nothing is compiled and no parameter exists: a model of 13 billion parameters on
512 devices is inspected in seconds, on a laptop.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.extend import core
from jaxtyping import PyTree

from taskmoe_jax import axes
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.flops import program_flops, token_flops
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.loop import BatchShape
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.step.microbatches import rows_together
from taskmoe_jax.vocabulary import Vocabulary


def activation_bytes(program: Program, batch: Mapping[str, Any]) -> int:
  """A device's share of what the forward pass saves for the backward pass.

  An estimate: what JAX's differentiation saves, with rematerialization; XLA
  fuses some of it away, and needs room for gradients and temporaries.

  Args:
    program: The program; its partitioning must be active.
    batch: Shapes of the batch that it is fed.
  """
  params, parts = nn.unbox(program.params), program.step.num_microbatches
  together = rows_together(
    batch["source_language"].shape[0], parts, program.step.rows_per_task_group
  )
  # Microbatches run one after the other and reuse the memory.
  batch = {
    name: jax.ShapeDtypeStruct(
      (rows.shape[0] // parts, *rows.shape[1:]), rows.dtype
    )
    for name, rows in batch.items()
  }
  task_ids = batch["source_language"]

  def backward(params, batch, task_ids):
    def loss(params):
      logits, _ = program.step.model.apply(
        {"params": params},
        batch,
        task_ids,
        train=True,
        rows_per_task_group=together,
        rngs={"dropout": jax.random.key(0)},
      )
      # Any loss of a token reads all of its logits.
      return jax.nn.logsumexp(logits, axis=-1).sum()

    return jax.vjp(loss, params)[1]

  jaxpr = jax.make_jaxpr(backward)(params, batch, task_ids).jaxpr
  # Parameters are saved too, at no extra cost.
  given = set(jaxpr.invars)
  saved = {
    variable
    for variable in jaxpr.outvars
    if isinstance(variable, core.Var) and variable not in given
  }
  model, partitioning = program.step.model.config, program.partitioning
  return sum(
    _device_share(variable.aval, model, partitioning) for variable in saved
  )


def _device_share(
  array: Any, model: ModelConfig, partitioning: Partitioning
) -> int:
  """Bytes that one device holds of an activation.

  Rows are split over devices; along `model` so are heads, hidden widths and
  vocabulary, which are recognized here by their sizes.
  """
  shards = partitioning.num_row_shards
  widths = {model.vocab_size}
  for stack in (model.encoder, model.decoder):
    widths |= set(stack.mlp_dims)
    if stack.moe is not None:
      widths.add(stack.moe.expert_mlp_dim)
  by_model = array.shape[-1:] and (
    array.shape[-1] in widths or model.num_heads in array.shape[1:]
  )
  if by_model:
    shards *= partitioning.mesh.shape[axes.MODEL_MESH]
  return -(-array.size * array.dtype.itemsize // shards)


@dataclasses.dataclass(frozen=True)
class ShardedArray:
  """An array of the state, and how it is sharded.

  Attributes:
    path: Its path, such as `encoder/final_norm/scale`.
    shape: Shape of the whole array.
    dtype: Its dtype.
    logical_axes: A name, or None, for each axis.
    split: The mesh axes that each axis is split over.
    device_bytes: Bytes of it on one device.
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
  """The result of `inspect`.

  Attributes:
    parameters: Every parameter.
    optimizer_state: Every array of the optimizer.
    gradient_bytes: Gradients on one device, as many as its parameters.
    activation_bytes: Estimate of the activations that a device keeps for the
      backward pass: what JAX saves, before XLA fuses some of it away.
    model_flops: FLOPs of a step, forward and backward; see `models.flops`.
    hardware_flops: FLOPs that all devices together compute in a step.
    source_tokens: Slots for source tokens in a batch.
    target_tokens: Slots for target tokens in a batch.
    dispatch: Which engine each MoE stack trains with, and why.
  """

  parameters: list[ShardedArray]
  optimizer_state: list[ShardedArray]
  gradient_bytes: int
  activation_bytes: int
  model_flops: int | float
  hardware_flops: int
  source_tokens: int
  target_tokens: int
  dispatch: Mapping[str, str]

  @property
  def device_bytes(self) -> int:
    """Bytes on one device: parameters, optimizer, gradients, activations."""
    arrays = [*self.parameters, *self.optimizer_state]
    return (
      sum(array.device_bytes for array in arrays)
      + self.gradient_bytes
      + self.activation_bytes
    )


class _Untrained(Vocabulary):
  """Stands in for a vocabulary: no shape depends on its content."""

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
    settings: Arguments of `loop.train`; those that shape the program are read.
    partitioning: The mesh, which may be of simulated devices.
    task_space: The task space of the mixture.
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
  """Determines what each device will hold and compute.

  Args:
    program: On any mesh, such as one of `simulated_devices`.
    batches: The batches that it will be fed.
  """
  model = program.step.model.config
  parameters = _parameters(program)
  lengths = {
    "source_length": batches.source_length,
    "target_length": batches.target_length,
  }
  source, target = (batches.batch_size * n for n in lengths.values())
  batch = abstract_batch(batches)
  with activate(program.partitioning):
    # Metrics take arrays, not shapes.
    hardware = program_flops(
      lambda state, batch: program.step(state, batch)[0],
      program.abstract_state(),
      batch,
    )
    activations = activation_bytes(program, batch)
  choices = program.dispatch_choices(batches.batch_size)
  return Inspection(
    parameters=parameters,
    optimizer_state=_optimizer_state(program),
    gradient_bytes=sum(array.device_bytes for array in parameters),
    activation_bytes=activations,
    model_flops=token_flops(model, **lengths).training_step(source, target),
    hardware_flops=hardware,
    source_tokens=source,
    target_tokens=target,
    dispatch={name: str(choice) for name, choice in choices.items()},
  )


def abstract_batch(
  batches: BatchShape, sharding: jax.sharding.Sharding | None = None
) -> dict[str, jax.ShapeDtypeStruct]:
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
      shape,
      jnp.float32 if name == "decoder_loss_weights" else jnp.int32,
      sharding=sharding,
    )
    for name, shape in shapes.items()
  }


def _parameters(program: Program) -> list[ShardedArray]:
  return _sharded_arrays(
    nn.unbox(program.params),
    parameters.logical_axes(program.params),
    program.shardings.params,
  )


def _optimizer_state(program: Program) -> list[ShardedArray]:
  shapes = program.abstract_state().optimizer_state
  no_axes = jax.tree.map(lambda leaf: (), shapes)
  return _sharded_arrays(shapes, no_axes, program.shardings.optimizer_state)


def _sharded_arrays(
  shapes: PyTree, names: PyTree, shardings: PyTree
) -> list[ShardedArray]:
  def described(path, leaf, axes_of, sharding) -> ShardedArray:
    shard = math.prod(sharding.shard_shape(leaf.shape))
    return ShardedArray(
      path="/".join(_key(key) for key in path),
      shape=leaf.shape,
      dtype=str(leaf.dtype),
      logical_axes=tuple(axes_of),
      split=_split(sharding, leaf.ndim),
      device_bytes=shard * leaf.dtype.itemsize,
    )

  return jax.tree.leaves(
    jax.tree.map_with_path(described, shapes, names, shardings)
  )


def _key(key: Any) -> str:
  """One entry of a path: a key of a dict, a tuple or a dataclass."""
  for name in ("key", "name", "idx"):
    if hasattr(key, name):
      return str(getattr(key, name))
  return str(key)


def _split(
  sharding: jax.sharding.NamedSharding, num_axes: int
) -> tuple[tuple[str, ...], ...]:
  """The mesh axes of each axis, without those of size 1."""
  entries = (*sharding.spec, *[None] * (num_axes - len(sharding.spec)))
  return tuple(
    tuple(
      name
      for name in ((entry,) if isinstance(entry, str) else entry or ())
      if sharding.mesh.shape[name] > 1
    )
    for entry in entries
  )

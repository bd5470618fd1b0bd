"""The steps of a recipe, traced for devices that need not exist here.

The training step is that of `train.program.Program`, as `train` would build it.
The others use the same parameters on the same mesh:

- `evaluate`: the loss of a batch, forward only;
- `decode`: one more token of every row, with a full key-value cache;
- `export`: the same with the sub-network of one task.
"""

import dataclasses
import enum
import math
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import PyTree

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.models.losses import cross_entropy
from taskmoe_jax.models.parameters import unrolled
from taskmoe_jax.models.transformer import DecodingMemory, Transformer
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.planning.inspection import abstract_batch
from taskmoe_jax.train.batch_shape import BatchShape
from taskmoe_jax.train.program import Program


class Step(enum.StrEnum):
  """What is compiled."""

  TRAIN = "train"
  EVALUATE = "evaluate"
  DECODE = "decode"
  EXPORT = "export"


@dataclasses.dataclass(frozen=True)
class Plan:
  """A recipe on a mesh, before anything has been compiled.

  Attributes:
    program: What `train` would build.
    batches: Rows and lengths of a step's batch.
  """

  program: Program
  batches: BatchShape

  @property
  def partitioning(self) -> Partitioning:
    return self.program.partitioning

  @property
  def model(self) -> ModelConfig:
    return self.program.step.model.config

  @property
  def rows_per_device(self) -> int:
    return self.batches.batch_size // self.partitioning.num_row_shards

  def traced(self, step: Step) -> tuple[jax.stages.Lowered, PyTree]:
    """Traces a step; nothing is computed or stored.

    Returns:
      What can be compiled, and the shapes of its operands, with shardings.
    """
    if step is Step.TRAIN:
      # What `jax.jit` returned; its callers only call it.
      function = cast(jax.stages.Wrapped, self.program.compiled_step())
      operands = self.program.abstract_state(), _batch(self)
    elif step is Step.EVALUATE:
      function, operands = _evaluation(self)
    elif step is Step.DECODE:
      function, operands = _decoding(self, self.program.step.model)
    else:
      small = Transformer(sub_network(self.model), 1)
      function, operands = _decoding(self, small)
    with activate(self.partitioning):
      return function.lower(*operands), operands

  def num_parameters(self, step: Step) -> int:
    if step is not Step.EXPORT:
      return self.program.num_parameters
    params = parameters.abstract_params(Transformer(sub_network(self.model), 1))
    return parameters.parameter_count(params)


def _batch(plan: Plan) -> dict[str, jax.ShapeDtypeStruct]:
  return abstract_batch(
    plan.batches, plan.partitioning.sharding(axes.ACT_BATCH)
  )


def sub_network(model: ModelConfig) -> ModelConfig:
  """The dense config of one task, as `taskmoe export` makes it.

  Raises:
    TaskMoeError: No stack is routed by task alone.
  """
  small: dict[str, StackConfig] = {}
  for name in ("encoder", "decoder"):
    stack: StackConfig = getattr(model, name)
    if stack.moe is not None and stack.moe.granularity.by_task:
      width = stack.moe.num_selected * stack.moe.expert_mlp_dim
      small[name] = StackConfig(
        num_layers=stack.num_layers, mlp_dims=(*stack.mlp_dims, width)
      )
  if not small:
    raise TaskMoeError(
      "no sub-network to compile: no stack is routed by task. Set"
      " ENCODER or DECODER to 'task' or 'static', or leave 'export' out of"
      " --steps."
    )
  return dataclasses.replace(
    model,
    encoder=small.get("encoder", model.encoder),
    decoder=small.get("decoder", model.decoder),
  )


def _abstract_parameters(plan: Plan, model: Transformer) -> PyTree:
  """Shapes of a model's parameters, with shardings."""
  boxed = parameters.abstract_params(model)
  return parameters.with_shardings(
    nn.unbox(boxed), parameters.parameter_shardings(boxed, plan.partitioning)
  )


def _evaluation(plan: Plan) -> tuple[jax.stages.Wrapped, PyTree]:
  step = plan.program.step

  def evaluate(params, batch):
    languages = batch["source_language"], batch["target_language"]
    task_ids = jnp.asarray(step.task_space.task_table)[languages]
    logits, _ = step.model.apply(
      {"params": params},
      batch,
      task_ids,
      train=False,
      rows_per_task_group=step.rows_per_task_group,
    )
    targets = batch["decoder_target_tokens"]
    losses, _ = cross_entropy(logits, targets, label_smoothing=0.0)
    weights = batch["decoder_loss_weights"]
    return (weights * losses).sum(), weights.sum()

  params = _abstract_parameters(plan, step.model)
  return jax.jit(evaluate), (params, _batch(plan))


def _decoding(
  plan: Plan, transformer: Transformer
) -> tuple[jax.stages.Wrapped, PyTree]:
  """One step with every row's cache full; one task per device."""
  parts, rows = plan.partitioning, plan.batches.batch_size
  params = _unrolled_parameters(plan, transformer)
  transformer = transformer.clone(unrolled=True)

  def start(params, sources, task_ids):
    return transformer.apply(
      {"params": params},
      sources,
      task_ids,
      plan.batches.target_length,
      rows_per_task_group=plan.rows_per_device,
      method="start_decoding",
    )

  def on_rows(*shape):
    sharding = parts.sharding(axes.ACT_BATCH)
    return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding)

  with activate(parts):
    memory = jax.eval_shape(
      start, params, on_rows(rows, plan.batches.source_length), on_rows(rows)
    )

  def decode(params, *operands):
    return transformer.apply(
      {"params": params}, *operands, method="decode_step"
    )

  operands = (
    params,
    on_rows(rows, 1),
    _laid_out(memory, parts),
    jax.ShapeDtypeStruct((), jnp.int32, sharding=parts.replicated),
    on_rows(rows, 1, plan.batches.target_length),
  )
  return jax.jit(decode, donate_argnums=2), operands


def _unrolled_parameters(plan: Plan, model: Transformer) -> PyTree:
  """Shapes of parameters as decoding reads them, with shardings."""
  scanned = _abstract_parameters(plan, model)
  shapes = jax.eval_shape(lambda p: unrolled(p, model.config), scanned)
  places = jax.tree.map(lambda leaf: leaf.sharding, scanned)
  decoder = dict(places["decoder"])
  blocks = jax.tree.map(
    lambda place: NamedSharding(place.mesh, PartitionSpec(*place.spec[1:])),
    decoder.pop("blocks"),
  )
  for i in range(model.config.decoder.num_blocks):
    decoder[f"block_{i}"] = blocks
  return parameters.with_shardings(shapes, {**places, "decoder": decoder})


def _laid_out(memory: DecodingMemory, parts: Partitioning) -> PyTree:
  """Shards a key-value cache: rows, or their groups, over all devices.

  Keys and values `[B, N, ...]` are split by heads as well, fetched experts
  `[G, D, F]` and `[G, F, D]` by their hidden width.
  """
  (rows,) = parts.spec((axes.ACT_BATCH,))

  def placed(path: Any, leaf: Any) -> jax.ShapeDtypeStruct:
    name = jax.tree_util.keystr(path)
    rest: tuple[str | None, ...] = ()
    if ".past" in name or ".source." in name or ".wo" in name:
      rest = (axes.MODEL_MESH,)
    elif ".wi" in name:
      rest = (None, axes.MODEL_MESH)
    sharding = NamedSharding(parts.mesh, PartitionSpec(rows, *rest))
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(placed, memory)


def bytes_of(tree: PyTree) -> int:
  """Bytes of one device's part of arrays with shardings."""
  return sum(
    math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
    for leaf in jax.tree.leaves(tree)
  )

"""A lower bound on the communication of a training step.

Counted in elements of the compute dtype, in which XLA may send all of it. One
device has n rows of S source and T target tokens. By purpose:

- *gradients* of a parameter are summed over the axes that split rows but not
  this parameter: an all-reduce of its shard; with several slices a
  reduce-scatter within each, an all-reduce of what is left, and an all-gather;
- *FSDP*: a matrix split over `data` is gathered for the forward pass and again
  for the backward pass, and its gradient is reduce-scattered;
- *experts that tokens travel to*: four all-to-alls of K times the tokens, over
  `expert`;
- *fetched experts*: four all-to-alls of K experts for each group of rows;
- *`model`*: each attention and feed-forward layer sums its output in the
  forward pass, and the gradient of its input in the backward pass (Megatron,
  1909.08053); so do embeddings and softmax, once.

Microbatches repeat all of it except the gradients.
"""

import collections
import math
from collections.abc import Iterator

import jax
import jax.numpy as jnp
from flax import linen as nn

from taskmoe_jax import axes
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.moe.dispatch import Choice
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.planning.programs import Plan

CommunicationBound = dict[tuple[str, tuple[str, ...]], int]
# A collective's kind, the mesh axes it spans, and its elements.
Transfer = tuple[str, tuple[str, ...], float]


def communication_lower_bound(plan: Plan) -> CommunicationBound:
  """Bytes by kind and mesh axes, counted as in `collectives.Collective`."""
  item = jnp.dtype(plan.model.dtype).itemsize
  total: collections.Counter = collections.Counter()
  for kind, names, elements in _transfers(plan):
    sizes = plan.partitioning.mesh.shape
    spanned = tuple(name for name in sizes if name in names and sizes[name] > 1)
    if spanned:
      total[kind, spanned] += round(elements * item)
  return dict(total)


def gradient_bytes(plan: Plan) -> int:
  """Bytes of all collectives that sum gradients, counted the same way."""
  item = jnp.dtype(plan.model.dtype).itemsize
  sizes = plan.partitioning.mesh.shape
  return round(
    sum(
      elements * item
      for kind, names, elements in _parameter_transfers(plan)
      if "reduce" in kind and any(sizes[name] > 1 for name in names)
    )
  )


def _transfers(plan: Plan) -> Iterator[Transfer]:
  yield from _parameter_transfers(plan)
  yield from _tensor_parallel_transfers(plan)
  choices = plan.program.dispatch_choices(plan.batches.batch_size)
  for name, choice in choices.items():
    yield from _expert_transfers(plan, getattr(plan.model, name), choice)


def _row_axes(plan: Plan) -> tuple[str, ...]:
  (rows,) = plan.partitioning.spec((axes.ACT_BATCH,))
  return rows


def _parameter_transfers(plan: Plan) -> Iterator[Transfer]:
  shapes = jax.tree.leaves(nn.unbox(plan.program.params))
  names = jax.tree.leaves(
    plan.program.params, is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned)
  )
  for boxed, leaf, sharding in zip(
    names, shapes, jax.tree.leaves(plan.program.shardings.params), strict=True
  ):
    split = set(jax.tree.leaves(tuple(sharding.spec)))
    elements = math.prod(sharding.shard_shape(leaf.shape))
    yield from _gradient_sum(plan, set(_row_axes(plan)) - split, elements)
    if axes.DATA_MESH in split and axes.FETCHED_MLP not in boxed.names:
      whole = elements * plan.partitioning.mesh.shape[axes.DATA_MESH]
      parts = plan.batches.num_microbatches
      yield "all-gather", (axes.DATA_MESH,), 2 * whole * parts
      yield "reduce-scatter", (axes.DATA_MESH,), whole


def _gradient_sum(
  plan: Plan, over: set[str], elements: int
) -> Iterator[Transfer]:
  """Between slices each device sums only its own part."""
  sizes = plan.partitioning.mesh.shape
  within = tuple(over - {axes.SLICE_MESH})
  devices = math.prod(sizes[name] for name in within)
  if sizes[axes.SLICE_MESH] == 1 or devices == 1:
    yield "all-reduce", tuple(over), elements
    return
  yield "reduce-scatter", within, elements
  yield "all-reduce", (axes.SLICE_MESH,), elements / devices
  yield "all-gather", within, elements


def _tensor_parallel_transfers(plan: Plan) -> Iterator[Transfer]:
  rows, model = plan.rows_per_device, plan.model
  width = rows * model.embed_dim
  encoder = (2 * 2 * model.encoder.num_layers + 1) * plan.batches.source_length
  decoder = (2 * 3 * model.decoder.num_layers + 2) * plan.batches.target_length
  yield "all-reduce", (axes.MODEL_MESH,), width * (encoder + decoder)


def _expert_transfers(
  plan: Plan, stack: StackConfig, choice: Choice
) -> Iterator[Transfer]:
  moe, layers = stack.require_moe(), stack.num_blocks
  model = plan.model
  if isinstance(choice.engine, ExpertFetch):
    rows = plan.rows_per_device // plan.batches.num_microbatches
    # A device may have only a part of a group.
    groups = rows // math.gcd(choice.engine.rows_per_task_group, rows)
    matrices = model.activation.num_inputs + 1
    once = groups * moe.num_selected * matrices * model.embed_dim
    once *= moe.expert_mlp_dim // plan.partitioning.mesh.shape[axes.MODEL_MESH]
    once *= 2 + choice.engine.refetch
    (split,) = plan.partitioning.spec((axes.FETCHED_MLP,))
    over = tuple(name for name in split if name != axes.MODEL_MESH)
    yield "all-to-all", over, layers * once * plan.batches.num_microbatches
    return
  length = plan.batches.source_length
  if stack is model.decoder:
    length = plan.batches.target_length
  tokens = plan.rows_per_device * length
  once = 4 * moe.num_selected * tokens * model.embed_dim
  yield "all-to-all", (axes.EXPERT_MESH,), layers * once

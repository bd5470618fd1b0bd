"""Compaction: finished rows leave the batch, which is halved.

A loop has arrays of fixed shapes, so a finished row would be computed until the
last one finishes. Instead, when half of the rows are finished, the other half
continues in a loop of half the size, within the same compiled program: without
a transfer to the host and, on a mesh, without communication, since each group
of rows keeps half of its own rows.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from taskmoe_jax.decoding.translations import Hypotheses, Steps
from taskmoe_jax.models.transformer import DecodingMemory


@dataclasses.dataclass(frozen=True)
class Loop:
  """A search as a loop; its progress is a struct of arrays `[B, ...]`.

  Attributes:
    is_active: Which rows `[B]` are not finished.
    step: Returns the progress one step later.
    hypotheses: The hypotheses of a progress.
  """

  is_active: Callable[[Steps, Any], jax.Array]
  step: Callable[[Steps, Any], Any]
  hypotheses: Callable[[Any], Hypotheses]


def run_loop(loop: Loop, steps: Steps, progress: Any) -> Hypotheses:
  """Takes steps until every row is finished.

  Args:
    loop: What a step is.
    steps: The model and the rows; `steps.num_compactions` says how often the
      batch is halved.
    progress: The initial progress. Besides arrays of rows it may hold scalars
      and, as `memory`, the model's.
  """
  size = steps.rows_per_group
  halve = steps.num_compactions > 0 and size % 2 == 0

  def continues(now):
    active = loop.is_active(steps, now)
    if not halve:
      return jnp.any(active)
    return jnp.any(jnp.sum(active.reshape(-1, size), axis=1) > size // 2)

  def step(now):
    return loop.step(steps, now)

  progress = jax.lax.while_loop(continues, step, progress)
  hypotheses = loop.hypotheses(progress)
  if not halve:
    return hypotheses
  finished = ~loop.is_active(steps, progress).reshape(-1, size)
  # Active rows come first, in their order.
  kept = jnp.argsort(finished, axis=1, stable=True)[:, : size // 2]
  half = dataclasses.replace(
    steps,
    limits=take_rows(steps.limits, kept),
    prefixes=take_rows(steps.prefixes, kept),
    keys=take_rows(steps.keys, kept),
    rows_per_group=size // 2,
    num_compactions=steps.num_compactions - 1,
  )
  rest = run_loop(loop, half, _compacted(progress, kept))
  return _put_rows(hypotheses, rest, kept)


def take_rows(tree: PyTree, kept: Int[Array, "G m"]) -> PyTree:
  """Takes m rows of each of G groups, from arrays `[G * n, ...]`."""

  def take(x):
    groups, number = kept.shape
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    taken = jax.vmap(lambda rows, index: rows[index])(grouped, kept)
    return taken.reshape(groups * number, *x.shape[1:])

  return jax.tree.map(take, tree)


def _put_rows(tree: PyTree, new: PyTree, kept: Int[Array, "G m"]) -> PyTree:
  """Writes rows back to where `take_rows` took them from."""

  def put(x, rows):
    groups, number = kept.shape
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    rows = rows.reshape(groups, number, *x.shape[1:])
    updated = jax.vmap(lambda old, index, row: old.at[index].set(row))(
      grouped, kept, rows
    )
    return updated.reshape(x.shape)

  return jax.tree.map(put, tree, new)


def _compacted(progress: Any, kept: Int[Array, "G m"]) -> Any:
  rows = jax.tree.map(
    lambda x: take_rows(x, kept) if x.ndim else x,
    dataclasses.replace(progress, memory=None),
  )
  return dataclasses.replace(
    rows, memory=_compacted_memory(progress.memory, kept)
  )


def _compacted_memory(
  memory: DecodingMemory, kept: Int[Array, "G m"]
) -> DecodingMemory:
  """Takes rows of a memory; a group's fetched experts also serve its half."""
  layers = [
    [
      dataclasses.replace(
        layer,
        past=take_rows(layer.past, kept),
        source=take_rows(layer.source, kept),
      )
      for layer in block
    ]
    for block in memory.layers
  ]
  inputs = take_rows(memory.router_inputs, kept)
  return dataclasses.replace(
    memory,
    layers=layers,
    source_mask=take_rows(memory.source_mask, kept),
    router_inputs=dataclasses.replace(
      inputs, rows_per_task_group=kept.shape[1]
    ),
  )

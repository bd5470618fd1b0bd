"""Rows whose search is over leave the batch: it is halved now and then.

A loop has arrays of fixed shapes, so that a row which is done would be computed
on until the last one is. Instead, when half of the rows are done, the other
half goes on in a loop of half the size, within the same compiled program:
without a word to the host, and on a mesh without any between the devices, since
each group of rows keeps a half of its own.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from taskmoe_jax.decoding.hypotheses import Hypotheses, Steps
from taskmoe_jax.models.transformer import DecodingMemory


@dataclasses.dataclass(frozen=True)
class Loop:
  """A search as a loop; its progress is a struct of arrays `[B, ...]`.

  Attributes:
    going: Which rows `[B]` are not done.
    step: The progress one step later.
    found: The hypotheses of a progress.
  """

  going: Callable[[Steps, Any], jax.Array]
  step: Callable[[Steps, Any], Any]
  found: Callable[[Any], Hypotheses]


def run_loop(loop: Loop, steps: Steps, progress: Any) -> Hypotheses:
  """Takes steps until every row is done.

  Args:
    loop: What a step is.
    steps: The model and the rows; `steps.halvings` says how often to halve.
    progress: To begin with. Besides arrays of rows it may hold scalars and, as
      `memory`, that of the model.
  """
  size = steps.rows_per_group
  halve = steps.halvings > 0 and size % 2 == 0

  def goes_on(now):
    going = loop.going(steps, now)
    if not halve:
      return jnp.any(going)
    return jnp.any(jnp.sum(going.reshape(-1, size), axis=1) > size // 2)

  def step(now):
    return loop.step(steps, now)

  progress = jax.lax.while_loop(goes_on, step, progress)
  found = loop.found(progress)
  if not halve:
    return found
  done = ~loop.going(steps, progress).reshape(-1, size)
  # Those that are not done come first, in their order.
  kept = jnp.argsort(done, axis=1, stable=True)[:, : size // 2]
  half = dataclasses.replace(
    steps,
    limits=take_rows(steps.limits, kept),
    prefixes=take_rows(steps.prefixes, kept),
    keys=take_rows(steps.keys, kept),
    rows_per_group=size // 2,
    halvings=steps.halvings - 1,
  )
  rest = run_loop(loop, half, _halved(progress, kept))
  return _put_rows(found, rest, kept)


def take_rows(tree: PyTree, kept: Int[Array, "G m"]) -> PyTree:
  """Takes m rows of each of G groups, from arrays `[G * n, ...]`."""

  def take(x):
    groups, number = kept.shape
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    taken = jax.vmap(lambda rows, index: rows[index])(grouped, kept)
    return taken.reshape(groups * number, *x.shape[1:])

  return jax.tree.map(take, tree)


def _put_rows(tree: PyTree, new: PyTree, kept: Int[Array, "G m"]) -> PyTree:
  """Puts back what `take_rows` has taken."""

  def put(x, rows):
    groups, number = kept.shape
    grouped = x.reshape(groups, x.shape[0] // groups, *x.shape[1:])
    rows = rows.reshape(groups, number, *x.shape[1:])
    whole = jax.vmap(lambda old, index, row: old.at[index].set(row))(
      grouped, kept, rows
    )
    return whole.reshape(x.shape)

  return jax.tree.map(put, tree, new)


def _halved(progress: Any, kept: Int[Array, "G m"]) -> Any:
  rows = jax.tree.map(
    lambda x: take_rows(x, kept) if x.ndim else x,
    progress.replace(memory=None),
  )
  return rows.replace(memory=_halved_memory(progress.memory, kept))


def _halved_memory(
  memory: DecodingMemory, kept: Int[Array, "G m"]
) -> DecodingMemory:
  """Fetched experts are a group's, and serve its half as well."""
  layers = [
    [
      layer.replace(
        past=take_rows(layer.past, kept), source=take_rows(layer.source, kept)
      )
      for layer in block
    ]
    for block in memory.layers
  ]
  inputs = take_rows(memory.router_inputs, kept)
  return memory.replace(
    layers=layers,
    source_mask=take_rows(memory.source_mask, kept),
    router_inputs=inputs.replace(rows_per_task_group=kept.shape[1]),
  )

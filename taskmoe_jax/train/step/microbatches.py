"""A batch in parts that are computed one after the other, to save memory."""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.partitioning.rules import active, constrain


def check_microbatches(
  batch_size: int, num_microbatches: int, num_row_shards: int
) -> None:
  """Refuses microbatches whose rows do not divide evenly over the devices."""
  parts = num_microbatches * num_row_shards
  if num_microbatches < 1 or batch_size % parts:
    raise TaskMoeError(
      f"a batch of {batch_size} rows does not divide into"
      f" {num_microbatches} microbatches for {num_row_shards} devices. Set"
      f" MICROBATCHES, or BATCH_SIZE to a multiple of {max(parts, 1)}."
    )


def rows_together(
  batch_size: int, num_microbatches: int, rows_per_task_group: int
) -> int:
  """Number of consecutive rows of one task in a microbatch.

  As many as in the batch, unless a device has fewer of them than it has
  microbatches: then groups are split, and so microbatches may have other rows
  on another mesh.
  """
  partitioning = active()
  shards = partitioning.num_row_shards if partitioning else 1
  rows = batch_size // (shards * num_microbatches)
  return math.gcd(rows_per_task_group, rows)


def split(
  rows: Mapping[str, jax.Array], num_microbatches: int, together: int
) -> dict[str, jax.Array]:
  """Deals out the rows of arrays `[B, ...]`: `[microbatches, rows, ...]`.

  Groups of rows are dealt like cards. So every device keeps its own rows, of
  which each microbatch takes an equal share, and which rows are in which
  microbatch does not depend on how many devices there are.

  Args:
    rows: Arrays by name.
    num_microbatches: Number of microbatches to make.
    together: Rows of a group, which are not separated.
  """

  def deal(array):
    shape = array.shape[1:]
    dealt = array.reshape(-1, num_microbatches, together, *shape)
    dealt = dealt.swapaxes(0, 1).reshape(num_microbatches, -1, *shape)
    return constrain(dealt, None, axes.ACT_BATCH, *(None for _ in shape))

  return {name: deal(array) for name, array in rows.items()}


def sum_over_microbatches(
  compute: Callable[[dict[str, jax.Array], Int[Array, "B"]], tuple],
  batch: Mapping[str, jax.Array],
  *,
  num_microbatches: int,
  together: int,
  like: PyTree,
) -> tuple[PyTree, PyTree]:
  """Sums what a function returns for each microbatch.

  Args:
    compute: Takes rows and their numbers in the batch; returns two trees of
      arrays. The first may be large: one sum of it is kept, not all terms.
    batch: All rows.
    num_microbatches: Number of microbatches.
    together: See `split`.
    like: Arrays with the shapes of the first tree.
  """
  (size,) = {array.shape[0] for array in batch.values()}
  numbers = jnp.arange(size)
  if num_microbatches == 1:
    return compute(dict(batch), numbers)
  parts = split({**batch, "row": numbers}, num_microbatches, together)
  structure = None

  def body(total, part):
    nonlocal structure
    numbers = part.pop("row")
    large, small = compute(part, numbers)
    # As leaves: the annotations of the tree's types do not count the axis that
    # the scan adds.
    leaves, structure = jax.tree.flatten(small)
    return jax.tree.map(jnp.add, total, large), leaves

  zeros = jax.tree.map(jnp.zeros_like, like)
  total, terms = jax.lax.scan(body, zeros, parts)
  return total, jax.tree.unflatten(structure, [term.sum(0) for term in terms])

"""Feed-forward of rows sorted by expert, on a CPU: the cost follows the rows.

XLA's own grouped product (`jax.lax.ragged_dot`) costs E dense ones on a CPU.
Here a loop takes one expert at a time: its weights, and a tile of the rows that
chose it. Shapes are static, so tiles come in a few heights, each with a loop of
its own over the experts whose rows fit it best. By hand, heights 5 and 10:

  group_sizes   3 0 27 6   ->   height 5    expert 0
                                height 10   expert 3, and expert 2's last 7 rows
                                whole       expert 2's first two times 10 rows
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.expert_products import matrix_gradient, rows_gradient

# XLA's products on a CPU take five rows at a time. Fewer cost as much.
LEAST_HEIGHT = 5


class Tiles(NamedTuple):
  """Which rows each tile takes.

  Every expert with rows has one last tile, of the height that fits best, and
  before it whole tiles of the greatest height, if its group is so long.
  """

  heights: tuple[int, ...]
  sizes: Int[Array, "E"]
  starts: Int[Array, "E"]  # of each expert's rows in `x`
  kept_starts: Int[Array, "E"]  # and in what is kept, where no tiles overlap
  num_whole: Int[Array, "E"]
  by_height: Int[Array, "E"]  # experts, in order of their last tile's height
  edges: Int[Array, "H"]  # where each height begins there, and the end

  @property
  def most_unfilled(self) -> int:
    """How many rows of a tile are at most not its own."""
    return int(np.diff(self.heights, prepend=0).max())


class Tile(NamedTuple):
  """A tile's expert, its place in `x` and in what is kept, and its own rows."""

  expert: Int[Array, ""]
  start: Int[Array, ""]
  kept_start: Int[Array, ""]
  height: int
  own: Int[Array, ""]  # number of rows; those after it are other experts'

  def mask(self) -> jax.Array:
    return (jnp.arange(self.height) < self.own)[:, None]


def grouped_feed_forward(
  x: Float[Array, "n D"],
  group_sizes: Int[Array, "E"],
  weights: FeedForwardWeights,
  activation: Activation,
) -> Float[Array, "n D"]:
  """Sends each group of rows through its expert.

  Args:
    x: Rows, those of expert 0 first. More than the groups take may follow.
    group_sizes: How many rows each expert takes.
    weights: `wi` `[E, D, F]` and `wo` `[E, F, D]`, computed with in x's dtype.
    activation: Between the two.

  Returns:
    The rows' outputs, and zeros for rows of no group.
  """
  return _grouped(x, group_sizes, weights, activation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def _grouped(x, group_sizes, weights, activation):
  return _forward(x, group_sizes, weights, activation)[0]


def _forward(x, group_sizes, weights, activation):
  tiles = _plan(group_sizes, x.shape[0])
  # The last tile may end beyond the last row.
  rows = jnp.pad(x, ((0, tiles.most_unfilled), (0, 0)))
  num_kept = x.shape[0] + group_sizes.size * tiles.most_unfilled
  kept = tuple(
    jnp.zeros_like(rows, shape=(num_kept, wi.shape[-1])) for wi in weights.wi
  )

  def one(tile, carry, *, first):
    del first
    y, kept = carry
    taken = _rows_at(rows, tile.start, tile.height)
    hidden = tuple(taken @ wi[tile.expert].astype(x.dtype) for wi in weights.wi)
    out = activation(*hidden) @ weights.wo[tile.expert].astype(x.dtype)
    kept = tuple(
      jax.lax.dynamic_update_slice_in_dim(k, h, tile.kept_start, 0)
      for k, h in zip(kept, hidden, strict=True)
    )
    return _put_own(y, out, tile), kept

  y, kept = _for_each(tiles, one, (jnp.zeros_like(rows), kept))
  return y[: x.shape[0]], (x, group_sizes, weights, kept)


def _backward(activation, residuals, dy):
  x, group_sizes, weights, kept = residuals
  tiles = _plan(group_sizes, x.shape[0])
  padding = ((0, tiles.most_unfilled), (0, 0))
  rows, d_rows = jnp.pad(x, padding), jnp.pad(dy, padding)

  def one(tile, carry, *, first):
    dx, d_weights = carry
    taken = _rows_at(rows, tile.start, tile.height)
    d_out = _rows_at(d_rows, tile.start, tile.height)
    d_out = jnp.where(tile.mask(), d_out, 0)
    hidden = tuple(_rows_at(k, tile.kept_start, tile.height) for k in kept)
    hidden, activation_vjp = jax.vjp(activation, *hidden)
    wo = weights.wo[tile.expert].astype(x.dtype)
    d_hidden = activation_vjp(rows_gradient(d_out, wo))
    d_taken = sum(
      rows_gradient(d, wi[tile.expert].astype(x.dtype))
      for d, wi in zip(d_hidden, weights.wi, strict=True)
    )
    found = FeedForwardWeights(
      wi=tuple(matrix_gradient(taken, d) for d in d_hidden),
      wo=matrix_gradient(hidden, d_out),
    )

    def put(total, value):
      value = value.astype(total.dtype)
      if not first:
        value = total[tile.expert] + value
      return jax.lax.dynamic_update_index_in_dim(total, value, tile.expert, 0)

    return _put_own(dx, d_taken, tile), jax.tree.map(put, d_weights, found)

  zeros = jnp.zeros_like(rows), jax.tree.map(jnp.zeros_like, weights)
  dx, d_weights = _for_each(tiles, one, zeros)
  return dx[: x.shape[0]], None, d_weights


_grouped.defvjp(_forward, _backward)


def tile_heights(num_rows: int, num_experts: int) -> tuple[int, ...]:
  """Chooses the heights of tiles, at most fifteen.

  They are few, since each is compiled, but close about the mean, where groups
  are likely to end, since what is not filled is wasted. The greatest is half as
  large again as the mean, so that most groups fit one tile. By hand, 1024 rows
  of 8 experts, 128 each: 20, 40, 60, 80, 100, 110, … 160, 180, 200.
  """
  mean = -(-num_rows // num_experts)
  step = LEAST_HEIGHT
  while 16 * step < mean:
    step *= 2
  heights, height = [0], 0
  # None higher than all rows together, which could not be cut out of them.
  while heights[-1] < num_rows and (
    len(heights) < 3 or 2 * heights[-1] < 3 * mean
  ):
    height += step
    near = abs(height - mean) <= max(mean // 4, step)
    if near or height % (2 * step) == 0:
      heights.append(height)
  return tuple(heights[1:])


def _plan(sizes: Int[Array, "E"], num_rows: int) -> Tiles:
  heights = tile_heights(num_rows, sizes.size)
  ladder = jnp.asarray((0, *heights), sizes.dtype)
  num_whole = jnp.maximum(sizes - 1, 0) // heights[-1]
  last = sizes - num_whole * heights[-1]
  rung = jnp.searchsorted(ladder, last, method="compare_all")
  num_kept = num_whole * heights[-1] + ladder[rung]
  first = jnp.arange(1, len(heights) + 2)
  return Tiles(
    heights,
    sizes,
    starts=jnp.cumsum(sizes) - sizes,
    kept_starts=jnp.cumsum(num_kept) - num_kept,
    num_whole=num_whole,
    by_height=jnp.argsort(rung),
    edges=jnp.sum(rung[None] < first[:, None], axis=1),
  )


def _for_each(tiles: Tiles, one: Callable, carry):
  """Runs `one(tile, carry, first=…)` on every tile.

  `first` says that no other tile of the same expert was there before.
  """

  def tile_of(expert, offset, height):
    return Tile(
      expert,
      tiles.starts[expert] + offset,
      tiles.kept_starts[expert] + offset,
      height,
      tiles.sizes[expert] - offset,
    )

  greatest = tiles.heights[-1]
  for k, height in enumerate(tiles.heights):

    def last(i, carry, height=height):
      expert = tiles.by_height[i]
      offset = tiles.num_whole[expert] * greatest
      return one(tile_of(expert, offset, height), carry, first=True)

    carry = jax.lax.fori_loop(tiles.edges[k], tiles.edges[k + 1], last, carry)

  ends = jnp.cumsum(tiles.num_whole)

  def whole(i, carry):
    expert = jnp.sum(ends <= i)
    offset = (i - ends[expert] + tiles.num_whole[expert]) * greatest
    return one(tile_of(expert, offset, greatest), carry, first=False)

  return jax.lax.fori_loop(0, ends[-1], whole, carry)


def _rows_at(values: jax.Array, start: jax.Array, height: int) -> jax.Array:
  return jax.lax.dynamic_slice_in_dim(values, start, height, axis=0)


def _put_own(total: jax.Array, values: jax.Array, tile: Tile) -> jax.Array:
  """Writes a tile's own rows; those of other experts stay as they are."""
  before = _rows_at(total, tile.start, tile.height)
  values = jnp.where(tile.mask(), values, before)
  return jax.lax.dynamic_update_slice_in_dim(total, values, tile.start, 0)

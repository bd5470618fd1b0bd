"""The engine `dropless`: tokens go to experts without a capacity.

On one device the choices are sorted by expert, and a grouped matrix product
takes each expert's segment of them, of any length. On a mesh whose `expert`
axis splits the experts, tokens first travel to the device of their expert: an
all-to-all of static shape, in which every device has a pool of S places for
each other one. S bounds the memory; a choice that finds its pool full is
dropped, and counted, or waits for another round of the same. Then the same
grouped product, and an all-to-all back.

A worked example, E = 2 on two devices, S = 2, and this device's four tokens
choose experts 1 0 1 1. Sorted: token 1 for expert 0, tokens 0, 2, 3 for expert
1. It sends (1, -) to the first device and (0, 2) to the second; 3 is dropped,
or sent in a second round, (-, -) and (3, -).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.engine import (
  EngineOutput,
  num_expert_shards,
  run_on_devices,
  sum_over_width,
)
from taskmoe_jax.moe.gates import renormalized
from taskmoe_jax.moe.gather import gather, invert, weighted_sum
from taskmoe_jax.moe.grouped import grouped_feed_forward
from taskmoe_jax.moe.routing import Routing


@dataclasses.dataclass(frozen=True)
class Dropless:
  """Sorts tokens by expert; drops only what exceeds the pool between devices.

  Attributes:
    pool_factor: How many times its fair share of a device's choices, 1/X with
      the experts on X devices, another device has places for. None has places
      for all, so that nothing is ever dropped, at X times the memory and
      communication of a fair share. Nothing is pooled on one device.
    renormalize_kept: As in `capacity`.
    spare_places: Number of places added to the pool.
    in_rounds: Whether choices that find their pool full are sent in another
      round, until all are served. The number of rounds is known only at run
      time, so it has no gradient.
  """

  pool_factor: float | None
  renormalize_kept: bool = False
  spare_places: int = 0
  in_rounds: bool = False

  def __call__(
    self,
    x: Float[Array, "B L D"],
    routing: Routing,
    valid: Bool[Array, "B L"],
    weights: FeedForwardWeights,
    activation: Activation,
  ) -> EngineOutput:
    shape = (*x.shape[:2], routing.experts.shape[-1])

    def of_tokens(values):
      if values.ndim == 2:
        values = jnp.broadcast_to(values[:, None], shape)
      return values

    num_experts = weights.wo.shape[0]
    experts = jnp.where(
      valid[..., None], of_tokens(routing.experts), num_experts
    )
    y, kept = run_on_devices(
      functools.partial(self._on_device, activation=activation),
      (x, experts, of_tokens(routing.gates)),
      weights,
      expert_axis=axes.EXPERT,
      mlp_axis=axes.MLP,
    )
    return EngineOutput(y, kept)

  def _on_device(
    self,
    operands: tuple[
      Float[Array, "B L D"], Int[Array, "B L K"], Float[Array, "B L K"]
    ],
    weights: FeedForwardWeights,
    *,
    activation: Activation,
  ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L K"] | None]:
    """What one device does with its tokens and its experts."""
    x, experts, gates = operands
    num_shards = num_expert_shards()
    num_selected = experts.shape[-1]
    num_experts = weights.wo.shape[0] * num_shards
    tokens = x.reshape(1, -1, x.shape[-1])  # `gather` wants groups: one
    # First choices before second ones: the sorts keep those if there is no
    # place for all.
    flat = experts.reshape(-1, num_selected).T.reshape(-1)  # [K·T]
    gates = gates.reshape(-1, num_selected)
    serve = functools.partial(
      _serve, tokens, weights=weights, activation=activation
    )
    if num_shards == 1:
      y = serve(flat, gates, flat.size)
      return sum_over_width(y.reshape(x.shape)), None
    rounds_of, pool = self._rounds(flat, num_shards, num_experts)
    if self.in_rounds and pool < flat.size:
      chosen = flat < num_experts
      last = jnp.max(jnp.where(chosen, rounds_of, -1))
      # All devices make the same number, so that none waits for one that ended.
      rounds = 1 + jax.lax.pmax(last, (axes.DATA_MESH, axes.EXPERT_MESH))

      def one_more(index, y):
        return y + serve(
          jnp.where(rounds_of == index, flat, num_experts), gates, pool
        )

      y = jax.lax.fori_loop(0, rounds, one_more, jnp.zeros_like(tokens))
      return sum_over_width(y.reshape(x.shape)), None
    kept = (flat < num_experts) & (rounds_of == 0)
    flat = jnp.where(kept, flat, num_experts)
    kept = kept.reshape(num_selected, -1).T
    if self.renormalize_kept:
      gates = renormalized(gates * kept)
    y = serve(flat, gates, pool).reshape(x.shape)
    return sum_over_width(y), kept.reshape(experts.shape)

  def _rounds(
    self, experts: Int[Array, "n"], num_shards: int, num_experts: int
  ) -> tuple[Int[Array, "n"], int]:
    """The round in which each choice finds a place, and S.

    Earlier choices come first, whichever of the device's experts they choose.
    The round of a choice that was not made is undefined.
    """
    if self.pool_factor is None:
      return jnp.zeros_like(experts), experts.size
    share = math.ceil(self.pool_factor * experts.size / num_shards)
    pool = min(experts.size, share + self.spare_places)
    shards = experts * num_shards // num_experts
    order, counts = sort_by_expert(shards, num_shards)
    return _place_in_shard(order, shards, counts) // pool, pool


def _serve(
  tokens: Float[Array, "1 T D"],
  experts: Int[Array, "n"],
  gates: Float[Array, "T K"],
  pool: int,
  *,
  weights: FeedForwardWeights,
  activation: Activation,
) -> Float[Array, "1 T D"]:
  """The experts' outputs for the tokens, times their gates.

  Args:
    tokens: This device's tokens.
    experts: The experts of all first choices, then of all second ones; E marks
      no choice, and adds nothing.
    gates: The gates of the same choices.
    pool: S, large enough for them; on one device, the number of choices.
    weights: The weights of this device's experts.
    activation: Between their matrices.
  """
  num_tokens, num_selected = gates.shape
  num_shards = num_expert_shards()
  num_experts = weights.wo.shape[0] * num_shards
  places, counts = sort_by_expert(experts, num_experts)
  if num_shards > 1:
    counts = counts.reshape(num_shards, -1)
    places = _pooled(places, experts, counts, pool)
  choices = invert(places[None], num_shards * pool)  # [1, places]
  sources = jnp.where(choices < experts.size, choices % num_tokens, num_tokens)
  sent = gather(tokens, sources, places.reshape(1, num_selected, -1))[0]
  if num_shards > 1:
    done = _on_owners(sent, counts, weights, activation, num_shards)
  else:
    done = grouped_feed_forward(sent, counts, weights, activation)
  back = gather(done[None], places[None], choices[:, None])
  back = back.reshape(1, num_selected, num_tokens, -1)
  return weighted_sum(back, gates.T[None])


def _pooled(
  places: Int[Array, "n"],
  experts: Int[Array, "n"],
  counts: Int[Array, "X e"],
  pool: int,
) -> Int[Array, "n"]:
  """Moves choices from their places in the order to `device · S + i`."""
  num_shards, local_experts = counts.shape
  shards = experts // local_experts
  inside = _place_in_shard(places, shards, counts.sum(1))
  placed = shards < num_shards
  return jnp.where(placed, shards * pool + inside, num_shards * pool)


def _place_in_shard(
  places: Int[Array, "n"], shards: Int[Array, "n"], totals: Int[Array, "X"]
) -> Int[Array, "n"]:
  """Places counted from the first choice of their shard; X, none, gives any."""
  starts = jnp.cumsum(totals) - totals
  return places - starts[jnp.minimum(shards, totals.size - 1)]


def sort_by_expert(
  experts: Int[Array, "n"], num_experts: int
) -> tuple[Int[Array, "n"], Int[Array, "E"]]:
  """Returns each choice's place in the order by expert, and experts' counts.

  Choices of one expert keep their order. E, no choice, is not placed: its place
  is past the end, n.
  """
  order = jnp.argsort(experts, stable=True)
  places = invert(order[None], experts.size)[0]
  ends = jnp.searchsorted(
    experts[order], jnp.arange(num_experts), side="right"
  ).astype(jnp.int32)
  placed = jnp.where(experts < num_experts, places, experts.size)
  return placed, jnp.diff(ends, prepend=0)


def _on_owners(
  sent: Float[Array, "n D"],
  counts: Int[Array, "X e"],
  weights: FeedForwardWeights,
  activation: Activation,
  num_shards: int,
) -> Float[Array, "n D"]:
  """Sends pools to the devices of their experts, and back what these make.

  Args:
    sent: The pools one after another, each sorted by expert.
    counts: How many of a pool belong to each of its experts; then padding.
    weights: Of this device's experts.
    activation: Between their matrices.
    num_shards: X, the devices along the `expert` axis.
  """
  width = sent.shape[1]

  def swap(values):
    values = values.reshape(num_shards, -1, *values.shape[1:])
    swapped = jax.lax.all_to_all(values, axes.EXPERT_MESH, 0, 0)
    return swapped.reshape(-1, *values.shape[2:])

  received = swap(sent)
  local_experts = counts.shape[1]
  if local_experts == 1:
    # Nothing to sort: places that nobody took are zeros, and stay zeros.
    wi, wo = (jax.tree.map(lambda w: w[0], w) for w in (weights.wi, weights.wo))
    hidden = activation(*(received @ w.astype(sent.dtype) for w in wi))
    return swap(hidden @ wo.astype(sent.dtype))
  counts = swap(counts)  # [X, e]: of each sender
  pool = jnp.arange(received.shape[0] // num_shards)
  ends = jnp.cumsum(counts, axis=1)
  experts = jnp.sum(pool[None, :, None] >= ends[:, None], axis=-1)  # [X, S]
  places, totals = sort_by_expert(experts.reshape(-1), local_experts)
  order = invert(places[None], places.size)
  ordered = gather(received[None], order, places[None, None])
  done = grouped_feed_forward(ordered[0], totals, weights, activation)
  back = gather(done[None], places[None], order[:, None])
  return swap(back.reshape(-1, width))

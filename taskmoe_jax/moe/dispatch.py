"""Engines that bring tokens and experts together: `capacity`, `expert_fetch`.

An engine is a small frozen object. Called with tokens, their routing and the
expert weights it returns the mixed output, and the share of choices it dropped.
Routers and experts know nothing of it, so every granularity runs on every
engine that can serve it, and they check each other.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.rules import constrain


@dataclasses.dataclass(frozen=True)
class Capacity:
  """GShard's dispatch: tokens go to experts, each of which takes at most C.

  Rows are gathered into groups of about `group_size` tokens that compete for
  C = ceil(K · tokens / E · factor) places of each expert. First choices come
  before second ones, earlier tokens before later ones; what finds no place is
  dropped, and adds nothing to the token's output (arXiv 2006.16668, section
  2.2). Padding takes no place. With `factor` None, C is the whole group.

  So where it drops, a token's output depends on its neighbours: a later token's
  first choice can displace an earlier one's second. Only training drops.

  Tokens are moved by index, forward and backward (`_gather`), not by products
  with one-hot matrices, whose cost grows with the group.
  """

  factor: float | None
  group_size: int

  def __call__(
    self,
    x: Float[Array, "B L D"],
    routing: Routing,
    valid: Bool[Array, "B L"],
    weights: FeedForwardWeights,
    activation: Activation,
  ) -> tuple[Float[Array, "B L D"], Float[Array, ""]]:
    num_rows, length, _ = x.shape
    num_experts = weights.wo.shape[0]
    num_selected = routing.experts.shape[-1]
    rows = _largest_divisor(num_rows, max(1, self.group_size // length))
    groups, tokens = num_rows // rows, rows * length
    capacity = tokens
    if self.factor is not None:
      fair = num_selected * tokens / num_experts
      capacity = min(tokens, max(1, math.ceil(fair * self.factor)))

    def grouped(values):
      if routing.by_row:
        values = jnp.broadcast_to(
          values[:, None], (num_rows, length, num_selected)
        )
      return values.reshape(groups, tokens, num_selected).swapaxes(1, 2)

    experts = jnp.where(
      valid.reshape(groups, 1, tokens), grouped(routing.experts), num_experts
    )
    slots = assign_slots(experts, num_experts, capacity)  # [G, K, tokens]
    choices = _invert(slots.reshape(groups, -1), num_experts * capacity)
    tokens_of_slots = jnp.where(
      choices < num_selected * tokens, choices % tokens, tokens
    )

    sent = _gather(x.reshape(groups, tokens, -1), tokens_of_slots, slots)
    sent = sent.reshape(groups, num_experts, capacity, -1)
    sent = constrain(sent, axes.ACT_GROUP, axes.ACT_EXPERT, None, None)
    hidden = activation(
      *(jnp.einsum("gecd,edf->gecf", sent, wi) for wi in weights.wi)
    )
    done = jnp.einsum("gecf,efd->gecd", hidden, weights.wo)
    done = constrain(done, axes.ACT_GROUP, axes.ACT_EXPERT, None, None)
    back = _gather(
      done.reshape(groups, num_experts * capacity, -1),
      slots.reshape(groups, -1),
      choices[:, None],
    ).reshape(groups, num_selected, tokens, -1)
    y = jnp.einsum(
      "gktd,gkt->gtd", back, grouped(routing.gates).astype(x.dtype)
    )

    wanted = jnp.sum(experts < num_experts)
    kept = jnp.sum(slots < num_experts * capacity)
    dropped = (wanted - kept) / jnp.maximum(wanted, 1)
    return y.reshape(x.shape), dropped.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class ExpertFetch:
  """Experts come to the rows: nothing is dropped, no token moves.

  Rows stand in groups of `rows_per_task_group` that share a task, so all rows
  of a group meet the same K experts. These are fetched once for the group, and
  the layer is a dense feed-forward of width K·F. Without grouping (groups of
  one row) it is still right, only dearer: each row fetches its own.
  """

  rows_per_task_group: int

  def __call__(
    self,
    x: Float[Array, "B L D"],
    routing: Routing,
    valid: Bool[Array, "B L"],
    weights: FeedForwardWeights,
    activation: Activation,
  ) -> tuple[Float[Array, "B L D"], Float[Array, ""]]:
    del valid  # Padding is computed along, as in any dense layer.
    if not routing.by_row:
      raise TaskMoeError(
        "dispatch 'expert_fetch' needs one routing decision a row, but packed"
        " rows routed by sentence have several. Set MoeConfig.dispatch to"
        " 'capacity' or 'auto', or PACK to False."
      )
    rows = self.rows_per_task_group
    assert x.shape[0] % rows == 0, (x.shape, rows)
    groups = x.shape[0] // rows
    experts, gates = routing.experts[::rows], routing.gates[::rows]  # [G, K]
    fetched = weights.take(experts)  # [G, K, D, F], [G, K, F, D]
    grouped = x.reshape(groups, rows * x.shape[1], -1)
    grouped = constrain(grouped, axes.ACT_BATCH, None, None)
    hidden = activation(
      *(jnp.einsum("gtd,gkdf->gtkf", grouped, wi) for wi in fetched.wi)
    )
    hidden = hidden * gates[:, None, :, None].astype(x.dtype)
    y = jnp.einsum("gtkf,gkfd->gtd", hidden, fetched.wo)
    return y.reshape(x.shape), jnp.zeros(())


Engine = Capacity | ExpertFetch


def choose_engine(
  config: MoeConfig, *, train: bool, rows_per_task_group: int
) -> Engine:
  """Returns the engine that the config names, or the best one for `auto`.

  `auto` fetches experts where the task alone decides, since whole groups of
  rows then share them, and dispatches tokens with a capacity elsewhere. Only
  training drops: a translation must not depend on its neighbours in the batch.
  """
  dispatch = config.dispatch
  if dispatch is Dispatch.AUTO:
    by_task = config.granularity.by_task
    dispatch = Dispatch.EXPERT_FETCH if by_task else Dispatch.CAPACITY
  if dispatch is Dispatch.EXPERT_FETCH:
    # A group shares its experts only when the task alone decides on them.
    shared = config.granularity.by_task
    return ExpertFetch(rows_per_task_group if shared else 1)
  factor = config.capacity_factor if train else None
  return Capacity(factor, config.group_size)


def assign_slots(
  experts: Int[Array, "G K T"], num_experts: int, capacity: int
) -> Int[Array, "G K T"]:
  """Gives each choice a slot, `expert · C + place`, or E·C if there is none.

  By hand, E = 2, C = 2, one group of three tokens with K = 2:

    first choices   0 0 0  ->  slots 0 1 4   the third finds expert 0 full
    second choices  1 1 0  ->  slots 2 3 4   and so does its second choice

  Args:
    experts: Chosen experts, best first; E marks padding.
    num_experts: E.
    capacity: C.
  """
  groups, _, tokens = experts.shape
  flat = experts.reshape(groups, -1)
  chosen = jax.nn.one_hot(flat, num_experts, dtype=jnp.int32)  # [G, K·T, E]
  place = jnp.sum((jnp.cumsum(chosen, axis=1) - 1) * chosen, axis=-1)
  fits = (flat < num_experts) & (place < capacity)
  slots = jnp.where(fits, flat * capacity + place, num_experts * capacity)
  return slots.reshape(groups, -1, tokens)


def _invert(slots: Int[Array, "G n"], num_slots: int) -> Int[Array, "G m"]:
  """Which choice sits in each slot; n, one past the last, where none does."""
  groups, num_choices = slots.shape
  empty = jnp.full((groups, num_slots), num_choices, slots.dtype)
  order = jnp.arange(num_choices, dtype=slots.dtype)
  return jax.vmap(lambda e, s: e.at[s].set(order, mode="drop"))(empty, slots)


@functools.partial(jax.custom_vjp)
def _gather(
  x: Float[Array, "G n D"],
  sources: Int[Array, "G m"],
  targets: Int[Array, "G K n"],
) -> Float[Array, "G m D"]:
  """`y[i] = x[sources[i]]`, with zeros where the index is past the end.

  `targets` is the same relation read backwards: where each row of `x` went. It
  makes the gradient a gather as well; the scatter-add that JAX would derive is
  several times slower on every platform.
  """
  del targets
  return _take_padded(x, sources)


def _take_padded(x: jax.Array, index: jax.Array) -> jax.Array:
  padded = jnp.pad(x, ((0, 0), (0, 1), (0, 0)))
  return jnp.take_along_axis(padded, index[:, :, None], axis=1)


def _gather_forward(x, sources, targets):
  return _take_padded(x, sources), (targets,)


def _gather_backward(residuals, dy):
  (targets,) = residuals
  groups, num_selected, rows = targets.shape
  dx = _take_padded(dy, targets.reshape(groups, -1))
  return dx.reshape(groups, num_selected, rows, -1).sum(1), None, None


_gather.defvjp(_gather_forward, _gather_backward)


def _largest_divisor(number: int, at_most: int) -> int:
  return max(d for d in range(1, at_most + 1) if number % d == 0)

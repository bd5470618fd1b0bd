"""The engine `capacity`: tokens go to experts of limited capacity."""

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
from taskmoe_jax.moe.expert_products import expert_product
from taskmoe_jax.moe.gates import renormalized
from taskmoe_jax.moe.gather import gather, invert, weighted_sum
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.rules import active


@dataclasses.dataclass(frozen=True)
class Capacity:
  """GShard's dispatch: tokens go to experts, each of which takes at most C.

  Rows are gathered into groups of about `group_size` tokens that compete for
  C = ceil(K · tokens / E · factor) places of each expert. First choices come
  before second ones, earlier tokens before later ones; a choice without
  a place is dropped, and adds nothing to the token's output (arXiv 2006.16668,
  section 2.2). Padding takes no place. With `factor` None, C is the group's
  size.

  So where it drops, a token's output depends on its neighbours: a later token's
  first choice can displace an earlier one's second. Only training drops.

  With priorities (`routing.priority`) tokens claim places in the order of these
  instead, highest first: by gate that is batch-prioritised routing (V-MoE,
  arXiv 2106.05974, section 4), at random it spares no position.

  Tokens are moved by index, forward and backward (`gather`), not by products
  with one-hot matrices, whose cost grows with the group.

  Attributes:
    factor: How many times its fair share an expert takes; None is no limit.
    group_size: Tokens of a group, in whole rows of one device.
    renormalize_kept: Whether the gates of the choices that a token keeps are
      scaled to sum to 1.
  """

  factor: float | None
  group_size: int
  renormalize_kept: bool = False

  def __call__(
    self,
    x: Float[Array, "B L D"],
    routing: Routing,
    valid: Bool[Array, "B L"],
    weights: FeedForwardWeights,
    activation: Activation,
  ) -> EngineOutput:
    rows = self._rows_of_group(x)
    y, kept = run_on_devices(
      functools.partial(self._on_device, rows=rows, activation=activation),
      (x, routing.experts, routing.gates, routing.priority, valid),
      weights,
      expert_axis=axes.EXPERT,
      mlp_axis=axes.MLP,
    )
    return EngineOutput(y, kept)

  def _rows_of_group(self, x: Float[Array, "B L D"]) -> int:
    num_rows, length, _ = x.shape
    partitioning = active()
    if partitioning is not None:
      # No group reaches beyond a device, or its tokens would travel twice.
      num_rows //= partitioning.num_row_shards
    most = max(1, self.group_size // length)
    return max(d for d in range(1, most + 1) if num_rows % d == 0)

  def _capacity(self, tokens: int, num_selected: int, num_experts: int) -> int:
    """C, the tokens of a group that one expert takes."""
    if self.factor is None:
      return tokens
    fair = num_selected * tokens / num_experts
    return min(tokens, max(1, math.ceil(fair * self.factor)))

  def _on_device(
    self,
    operands: tuple,
    weights: FeedForwardWeights,
    *,
    rows: int,
    activation: Activation,
  ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L K"]]:
    """What one device does with its groups and its experts."""
    x, experts, gates, priority, valid = operands
    num_rows, length, width = x.shape
    groups, tokens = num_rows // rows, rows * length
    num_selected = experts.shape[-1]
    local_experts = weights.wo.shape[0]
    num_experts = local_experts * num_expert_shards()

    def grouped(values):
      if values.ndim < 3:
        values = jnp.broadcast_to(
          values[:, None], (num_rows, length, num_selected)
        )
      return values.reshape(groups, tokens, num_selected).swapaxes(1, 2)

    experts = jnp.where(
      valid.reshape(groups, 1, tokens), grouped(experts), num_experts
    )
    capacity = self._capacity(tokens, num_selected, num_experts)
    if priority is not None:
      priority = jnp.broadcast_to(
        priority.reshape(num_rows, -1), (num_rows, length)
      ).reshape(groups, tokens)
    slots = assign_slots(experts, num_experts, capacity, priority)
    kept = slots < num_experts * capacity  # [G, K, tokens]
    choices = invert(slots.reshape(groups, -1), num_experts * capacity)
    tokens_of_slots = jnp.where(
      choices < num_selected * tokens, choices % tokens, tokens
    )
    sent = gather(x.reshape(groups, tokens, width), tokens_of_slots, slots)
    done = _experts(
      sent.reshape(groups, num_experts, capacity, width), weights, activation
    )
    back = gather(
      done.reshape(groups, num_experts * capacity, width),
      slots.reshape(groups, -1),
      choices[:, None],
    ).reshape(groups, num_selected, tokens, width)
    gates = grouped(gates)
    if self.renormalize_kept:
      gates = renormalized(gates * kept, axis=1)
    y = weighted_sum(back, gates).reshape(x.shape)
    kept = kept.swapaxes(1, 2).reshape(num_rows, length, num_selected)
    return sum_over_width(y), kept


def _experts(
  sent: Float[Array, "G E C D"],
  weights: FeedForwardWeights,
  activation: Activation,
) -> Float[Array, "G E C D"]:
  """Runs the experts on their devices: groups are sent there and back."""
  weights = weights.astype(sent.dtype)
  shards = num_expert_shards()
  if shards > 1:
    sent = jax.lax.all_to_all(sent, axes.EXPERT_MESH, 1, 0, tiled=True)
  groups, local_experts, capacity, width = sent.shape
  # One product for each expert, not for each group and expert: XLA would lay
  # all of it out anew for that, on a CPU for a third of the layer's time.
  by_expert = sent.swapaxes(0, 1).reshape(local_experts, -1, width)
  hidden = activation(*(expert_product(by_expert, wi) for wi in weights.wi))
  done = expert_product(hidden, weights.wo)
  done = done.reshape(local_experts, groups, capacity, width).swapaxes(0, 1)
  if shards > 1:
    done = jax.lax.all_to_all(done, axes.EXPERT_MESH, 0, 1, tiled=True)
  return done


def assign_slots(
  experts: Int[Array, "G K T"],
  num_experts: int,
  capacity: int,
  priority: Float[Array, "G T"] | None = None,
) -> Int[Array, "G K T"]:
  """Gives each choice a slot, `expert · C + place`, or E·C if there is none.

  By hand, E = 2, C = 2, one group of three tokens with K = 2:

    first choices   0 0 0  ->  slots 0 1 4   the third finds expert 0 full
    second choices  1 1 0  ->  slots 2 3 4   and so does its second choice

  Args:
    experts: Chosen experts, best first; E marks padding.
    num_experts: E.
    capacity: C.
    priority: Tokens with a higher one claim places first; without priorities,
      or with equal ones, in their order.
  """
  if priority is not None:
    order = jnp.argsort(-priority, axis=-1, stable=True)
    ordered = jnp.take_along_axis(experts, order[:, None], axis=2)
    slots = assign_slots(ordered, num_experts, capacity)
    back = jnp.argsort(order, axis=-1)
    return jnp.take_along_axis(slots, back[:, None], axis=2)
  groups, _, tokens = experts.shape
  flat = experts.reshape(groups, -1)
  chosen = jax.nn.one_hot(flat, num_experts, dtype=jnp.int32)  # [G, K·T, E]
  place = jnp.sum((jnp.cumsum(chosen, axis=1) - 1) * chosen, axis=-1)
  fits = (flat < num_experts) & (place < capacity)
  slots = jnp.where(fits, flat * capacity + place, num_experts * capacity)
  return slots.reshape(groups, -1, tokens)

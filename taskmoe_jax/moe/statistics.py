"""What a layer's routing did: for its loss, for the log, for balancing.

Padding counts nowhere, and a choice that was not made is no load. A decision
for a row, or a sentence, counts once for each of its tokens.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.routing import Routing

# The collection of variables in which MoE layers leave `GateStatistics`, where
# it is asked for: `model.apply(..., mutable=[GATE_STATISTICS])`.
GATE_STATISTICS = "gate_statistics"


@flax.struct.dataclass
class GateStatistics:
  """How often tokens like an expert best, and how sure they are of it.

  Sums over tokens, so that those of several batches are their sums.

  Attributes:
    tokens: How many there were.
    first_choices: Of how many each expert was the best.
    first_probabilities: Sum of its probability, among all E, over these.
  """

  tokens: Float[Array | np.ndarray, "*layers"]
  first_choices: Float[Array | np.ndarray, "*layers E"]
  first_probabilities: Float[Array | np.ndarray, "*layers E"]

  @property
  def activity(self) -> Float[Array | np.ndarray, "*layers E"]:
    """Share of tokens whose best expert it is; sums to 1."""
    return _share(self.first_choices, self.tokens[..., None])

  @property
  def confidence(self) -> Float[Array | np.ndarray, "*layers E"]:
    """Its mean probability where it is the best; 0 if it never is."""
    return _share(self.first_probabilities, self.first_choices)


def measure_gates(routing: Routing, inputs: RouterInputs) -> GateStatistics:
  """Sums up what a learned gate thinks of its experts, over all tasks.

  What experts are pruned by: Koishekenov et al., arXiv 2212.09811, section 3.
  """
  weights = (inputs.segment_ids > 0).astype(jnp.float32)
  if routing.by_row:
    weights = weights.sum(1)
  assert routing.softmax is not None, "a fixed table has no gate"
  probabilities = routing.softmax.probabilities
  first = jax.nn.one_hot(routing.experts[..., 0], probabilities.shape[-1])
  first = first * weights[..., None]
  tokens = tuple(range(weights.ndim))
  return GateStatistics(
    tokens=weights.sum(),
    first_choices=first.sum(tokens),
    first_probabilities=(first * probabilities).sum(tokens),
  )


@flax.struct.dataclass
class RoutingStatistics:
  """Routing losses, and sums for each task.

  They are sums because shares of several steps, or layers, are shares of their
  sums; the properties give these. Arrays of NumPy once they have been fetched
  from the devices.

  Attributes:
    balance_loss: 1 when experts share the tokens evenly, E at worst.
    z_loss: Mean squared log-partition of the scores.
    task_tokens: Tokens of each task.
    task_choices: How many of their choices fell on each expert, the dropped
      ones included.
    task_entropies: Sum, over their tokens, of the entropy of the probabilities
      of experts, in nats.
    task_drops: Choices for which no expert had a place.
  """

  balance_loss: Float[Array | np.ndarray, "*layers"]
  z_loss: Float[Array | np.ndarray, "*layers"]
  task_tokens: Float[Array | np.ndarray, "*layers R"]
  task_choices: Float[Array | np.ndarray, "*layers R E"]
  task_entropies: Float[Array | np.ndarray, "*layers R"]
  task_drops: Float[Array | np.ndarray, "*layers R"]

  @property
  def load(self) -> Float[Array | np.ndarray, "*layers E"]:
    """Share of all choices that fell on each expert; sums to 1."""
    choices = self.task_choices.sum(-2)
    return _share(choices, choices.sum(-1)[..., None])

  @property
  def entropy(self) -> Float[Array | np.ndarray, "*layers"]:
    """Mean over all tokens."""
    return _share(self.task_entropies.sum(-1), self.task_tokens.sum(-1))

  @property
  def dropped(self) -> Float[Array | np.ndarray, "*layers"]:
    """Share of all choices."""
    return _share(self.task_drops.sum(-1), self.task_choices.sum((-2, -1)))

  @property
  def task_load(self) -> Float[Array | np.ndarray, "*layers R E"]:
    """Share of a task's choices that fell on each expert."""
    return _share(self.task_choices, self.task_choices.sum(-1)[..., None])

  @property
  def task_entropy(self) -> Float[Array | np.ndarray, "*layers R"]:
    return _share(self.task_entropies, self.task_tokens)

  @property
  def task_dropped(self) -> Float[Array | np.ndarray, "*layers R"]:
    return _share(self.task_drops, self.task_choices.sum(-1))


def measure(
  routing: Routing,
  kept: Bool[Array, "B L K"] | None,
  inputs: RouterInputs,
  num_tasks: int,
  num_experts: int,
) -> RoutingStatistics:
  """Sums up a layer's routing, from the same forward pass.

  Fixed tables have neither loss, as nothing could follow it; their entropy is
  that of the K equal gates.

  Args:
    routing: Of all tokens or rows.
    kept: Which choices were served; None if all were.
    inputs: Of the router.
    num_tasks: R.
    num_experts: E.
  """
  valid = inputs.segment_ids > 0
  weights = valid.astype(jnp.float32)
  tokens = weights.sum(1)  # [B]
  if routing.by_row:
    weights = tokens
  made = jax.nn.one_hot(routing.experts, num_experts).sum(-2)  # [B, *L, E]
  zero = jnp.zeros(())
  if routing.softmax is None:
    balance_loss = z_loss = zero
    num_selected = routing.experts.shape[-1]
    entropy = jnp.full(weights.shape, np.log(num_selected), jnp.float32)
  else:
    balance_loss = _balance_loss(routing, weights)
    z_loss = _mean(jnp.square(routing.softmax.log_partition), weights)
    entropy = jax.lax.stop_gradient(routing.softmax.entropy)

  def by_task(rows):
    return jax.ops.segment_sum(rows, inputs.task_ids, num_tasks)

  return RoutingStatistics(
    balance_loss=balance_loss,
    z_loss=z_loss,
    task_tokens=by_task(tokens),
    task_choices=by_task(_of_rows(made, weights)),
    task_entropies=by_task(_of_rows(entropy[..., None], weights)[:, 0]),
    task_drops=by_task(_drops(routing, kept, valid, num_experts)),
  )


def _balance_loss(
  routing: Routing, weights: Float[Array, "B *L"]
) -> Float[Array, ""]:
  """E · sum_e f_e P_e, of the shares of first choices and mean probabilities.

  GShard, arXiv 2006.16668, equation 4; lingvo's `Top2GatingOnLogits` writes it
  as a mean times E squared. The z-loss beside it is that of ST-MoE (arXiv
  2202.08906, equation 5).
  """
  assert routing.softmax is not None, "a fixed table has no loss"
  probabilities = routing.softmax.probabilities
  num_experts = probabilities.shape[-1]
  first = jax.nn.one_hot(routing.experts[..., 0], num_experts)
  balance = _mean(first, weights) * _mean(probabilities, weights)
  return num_experts * jnp.sum(balance)


def _mean(
  values: Float[Array, "B *rest"], weights: Float[Array, "B *L"]
) -> jax.Array:
  total = jnp.tensordot(weights, values, axes=weights.ndim)
  return total / jnp.maximum(weights.sum(), 1.0)


def _of_rows(
  values: Float[Array, "B *L n"], weights: Float[Array, "B *L"]
) -> Float[Array, "B n"]:
  """Sums over the tokens of each row, by comparisons that fuse into the sum."""
  weighted = values * weights[..., None]
  return weighted if weighted.ndim == 2 else weighted.sum(1)


def _drops(
  routing: Routing,
  kept: Bool[Array, "B L K"] | None,
  valid: Bool[Array, "B L"],
  num_experts: int,
) -> Float[Array, "B"]:
  """How many choices of each row's tokens no expert had a place for."""
  if kept is None:
    return jnp.zeros(valid.shape[0])
  made = routing.experts < num_experts
  if routing.by_row:
    made = made[:, None]
  lost = made & valid[..., None] & ~kept
  return lost.sum((1, 2)).astype(jnp.float32)


def _share(part, whole):
  """Of NumPy's and of JAX's arrays alike; 0 of nothing."""
  return part / (whole + (whole == 0))


def overlap(load: Float[np.ndarray, "R E"]) -> Float[np.ndarray, "R R"]:
  """How much of their load two tasks have on the same experts.

  `sum_e min(load_r, load_s)`: 1 if they use experts alike, 0 if they share
  none.
  """
  return np.minimum(load[:, None], load[None]).sum(-1)

"""The engine `expert_fetch`: experts come to the rows that want them.

With task routing a row's experts are known before the layer is reached. So the
tokens stay where they are. Experts are split along their hidden width F over
the devices; every device is told which experts every other one wants, cuts its
own slice out of these, and one all-to-all delivers: each device then holds K
whole experts for each of its groups of rows, and the layer is a dense
feed-forward of width K·F. The gradient is the transpose of all this, one
all-to-all back. What is moved does not depend on the batch; nothing is dropped,
no device works more than another (docs/design/design.md).
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.engine import EngineOutput, run_on_devices, sum_over_width
from taskmoe_jax.moe.fetched_experts import (
  HIDDEN,
  apply_experts,
  fetch,
  gates_of_hidden,
  scaled,
)
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.rules import Partitioning, active, platform


@dataclasses.dataclass(frozen=True)
class ExpertFetch:
  """Experts come to the rows: nothing is dropped, no token moves.

  Attributes:
    rows_per_task_group: Size of the groups of consecutive rows with one task: a
      group's experts are fetched once. Groups of one row are correct, too, but
      cost more: each row fetches its own.
    refetch: Whether the backward pass fetches experts again, which costs a
      second all-to-all and saves K experts per group and layer.
  """

  rows_per_task_group: int
  refetch: bool = False

  def __call__(
    self,
    x: Float[Array, "B L D"],
    routing: Routing,
    valid: Bool[Array, "B L"],
    weights: FeedForwardWeights,
    activation: Activation,
  ) -> EngineOutput:
    del valid  # Padding is computed along, as in any dense layer.
    if not routing.by_row:
      raise TaskMoeError(
        "dispatch 'expert_fetch' needs one routing decision a row, but packed"
        " rows routed by sentence have several. Set MoeConfig.dispatch to"
        " 'dropless' or 'auto', or PACK to False."
      )
    partitioning = active()
    run: Callable = functools.partial(
      _on_device,
      activation=activation,
      rows_per_task_group=self.rows_per_task_group,
      partitioning=partitioning,
    )
    if self.refetch:
      run = jax.checkpoint(
        run, policy=jax.checkpoint_policies.save_only_these_names(HIDDEN)
      )
    y = run_on_devices(
      run,
      (x, routing.experts, routing.gates),
      weights,
      expert_axis=axes.FETCHED_EXPERT,
      mlp_axis=axes.FETCHED_MLP,
    )
    return EngineOutput(y, None)

  def fetch(
    self, routing: Routing, weights: FeedForwardWeights, dtype: jnp.dtype
  ) -> FeedForwardWeights:
    """Fetches the experts of all rows once, with their gates, for many calls.

    A decoding reads the same experts at every step, so it should not look for
    them at every step; `apply_fetched` is then a dense feed-forward.

    Returns:
      `wi [G, D, K·F]` and `wo [G, K·F, D]`.
    """
    partitioning = active()

    def run(rows, weights):
      experts, gates = rows
      step = math.gcd(self.rows_per_task_group, experts.shape[0])
      fetched = fetch(
        weights, experts[::step], _fetch_axes(partitioning), dtype
      )
      return fetched.wi, scaled(fetched.wo, gates[::step], weights)

    out_specs = None
    if partitioning is not None:
      (rows,) = partitioning.spec((axes.ACT_BATCH,))
      out_specs = (
        PartitionSpec(rows, None, axes.MODEL_MESH),
        PartitionSpec(rows, axes.MODEL_MESH),
      )
    wi, wo = run_on_devices(
      run,
      (routing.experts, routing.gates),
      weights,
      expert_axis=axes.FETCHED_EXPERT,
      mlp_axis=axes.FETCHED_MLP,
      out_specs=out_specs,
    )
    return FeedForwardWeights(wi, wo)


def _fetch_axes(partitioning: Partitioning | None) -> tuple[str, ...]:
  """Mesh axes over which experts are split though tokens are split as well."""
  if partitioning is None:
    return ()
  (split,) = partitioning.spec((axes.FETCHED_MLP,))
  return tuple(
    name
    for name in split
    if name != axes.MODEL_MESH and partitioning.mesh.shape[name] > 1
  )


def _on_device(
  operands: tuple[
    Float[Array, "B L D"], Int[Array, "B K"], Float[Array, "B *L K"]
  ],
  weights: FeedForwardWeights,
  *,
  activation: Activation,
  rows_per_task_group: int,
  partitioning: Partitioning | None,
) -> Float[Array, "B L D"]:
  """What one device does with its rows and its slice of every expert."""
  x, experts, gates = operands
  num_rows, length, width = x.shape
  # A group may be larger than what a device has of it.
  rows = math.gcd(rows_per_task_group, num_rows)
  grouped = x.reshape(-1, rows * length, width)
  experts = experts[::rows]
  if partitioning is None and platform() == "cpu":
    if gates.ndim == 2:
      gates = jnp.repeat(gates, length, axis=0)
    gates = gates.reshape(*grouped.shape[:2], -1)
    y = apply_experts(grouped, weights, experts, gates, activation)
    return y.reshape(x.shape)
  fetched = fetch(weights, experts, _fetch_axes(partitioning), x.dtype)
  wo = fetched.wo
  if gates.ndim == 2:
    # Gates of rows go into `wo`, where they cost least.
    wo = scaled(wo, gates[::rows], weights)
  hidden = activation(
    *(
      checkpoint_name(jnp.einsum("gtd,gdh->gth", grouped, wi), HIDDEN)
      for wi in fetched.wi
    )
  )
  if gates.ndim == 3:
    of_tokens = gates.reshape(*grouped.shape[:2], -1)
    of_hidden = gates_of_hidden(of_tokens, weights, size=hidden.shape[-1])
    hidden = hidden * of_hidden.astype(x.dtype)
  y = jnp.einsum("gth,ghd->gtd", hidden, wo).reshape(x.shape)
  return sum_over_width(y)

"""The engine `expert_fetch`: experts come to the rows that want them."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.dispatched import Dispatched
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.rules import constrain


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
  ) -> Dispatched:
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
    fetched = weights.take(experts).astype(x.dtype)  # [G, K, D, F]
    grouped = x.reshape(groups, rows * x.shape[1], -1)
    grouped = constrain(grouped, axes.ACT_BATCH, None, None)
    hidden = activation(
      *(jnp.einsum("gtd,gkdf->gtkf", grouped, wi) for wi in fetched.wi)
    )
    hidden = hidden * gates[:, None, :, None].astype(x.dtype)
    y = jnp.einsum("gtkf,gkfd->gtd", hidden, fetched.wo)
    return Dispatched(y.reshape(x.shape), None)

"""The engine `expert_fetch`: experts come to the rows that want them.

With task routing a row's experts are known before the layer is reached. So the
tokens stay where they are. Experts are split along their hidden width F over
the devices; every device is told which experts every other one wants, cuts its
own slice out of these, and one all-to-all delivers: each device then holds K
whole experts for each of its groups of rows, and the layer is a dense
feed-forward of width K·F. The gradient is the transpose of all this, one
all-to-all back. What is moved does not depend on the batch; nothing is dropped,
no device works more than another (DESIGN.md section 5).
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.dispatched import Dispatched, run_on_devices
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.rules import Partitioning, active

# What is kept for the backward pass where fetched experts are not.
_HIDDEN = "hidden"


@dataclasses.dataclass(frozen=True)
class ExpertFetch:
  """Experts come to the rows: nothing is dropped, no token moves.

  Attributes:
    rows_per_task_group: Rows stand in groups of this many that share a task, so
      that a group's experts are fetched once. Without grouping (groups of one
      row) it is still right, only dearer: each row fetches its own.
    refetch: Whether the backward pass fetches again what the forward pass had,
      which costs a second all-to-all and saves K experts a group and layer.
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
  ) -> Dispatched:
    del valid  # Padding is computed along, as in any dense layer.
    if not routing.by_row:
      raise TaskMoeError(
        "dispatch 'expert_fetch' needs one routing decision a row, but packed"
        " rows routed by sentence have several. Set MoeConfig.dispatch to"
        " 'dropless' or 'auto', or PACK to False."
      )
    partitioning = active()
    run = functools.partial(
      _on_device,
      activation=activation,
      rows_per_task_group=self.rows_per_task_group,
      partitioning=partitioning,
    )
    if self.refetch:
      run = jax.checkpoint(
        run, policy=jax.checkpoint_policies.save_only_these_names(_HIDDEN)
      )
    y = run_on_devices(
      run,
      (x, routing.experts, routing.gates),
      weights,
      expert_axis=axes.FETCHED_EXPERT,
      mlp_axis=axes.FETCHED_MLP,
    )
    return Dispatched(y, None)


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
  """What one device does with its rows and its slice of every expert.

  Gates of rows go into `wo`, where they cost least; gates of tokens, into the
  hidden layer.
  """
  x, experts, gates = operands
  num_rows, length, width = x.shape
  # A group may be larger than what a device has of it.
  rows = math.gcd(rows_per_task_group, num_rows)
  grouped = x.reshape(num_rows // rows, rows * length, width)
  wi, wo = fetch(weights, experts[::rows], _fetch_axes(partitioning), x.dtype)
  if gates.ndim == 2:
    scale = gates[::rows, None, :, None, None].astype(x.dtype)
    wo = wo * scale
  # Hidden as [G, slices, K, F, tokens]: with tokens last the TPU compiler makes
  # no copy of it, forward or backward.
  branches = (jnp.einsum("gtd,gskdf->gskft", grouped, w) for w in wi)
  hidden = activation(*(checkpoint_name(h, _HIDDEN) for h in branches))
  if gates.ndim == 3:
    of_tokens = gates.reshape(*grouped.shape[:2], -1).astype(x.dtype)
    hidden = hidden * of_tokens.swapaxes(1, 2)[:, None, :, None]
  y = jnp.einsum("gskft,gskfd->gtd", hidden, wo)
  if partitioning is not None:
    y = jax.lax.psum(y, axes.MODEL_MESH)
  return y.reshape(x.shape)


def fetch(
  weights: FeedForwardWeights,
  experts: Int[Array, "G K"],
  mesh_axes: tuple[str, ...],
  dtype: jnp.dtype,
) -> tuple[tuple[Float[Array, "G s K D f"], ...], Float[Array, "G s K f D"]]:
  """Gathers the experts of each group: `s` slices of them, `f` wide.

  A slice is cast before it travels, in either direction, and the gradients that
  arrive for one expert are summed in the weights' own float32.

  Args:
    weights: This device's slice of all experts.
    experts: Wanted by this device's groups. E, a choice not made, fetches any.
    mesh_axes: Over which the other slices lie; none if there are no others.
    dtype: What to compute in.
  """

  def deliver(slices):
    if mesh_axes:
      slices = jax.lax.all_to_all(slices, mesh_axes, 0, 0)
    return jnp.moveaxis(slices, 0, 1)

  wanted = experts[None]
  if mesh_axes:
    wanted = jax.lax.all_gather(experts, mesh_axes)
  taken = weights.take(wanted).astype(dtype)  # [s, G, K, ...]
  return tuple(map(deliver, taken.wi)), deliver(taken.wo)

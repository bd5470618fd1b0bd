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
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.dispatched import Dispatched, run_on_devices
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.rules import Partitioning, active, platform

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
      return fetched.wi, _scaled(fetched.wo, gates[::step], weights)

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


def apply_fetched(
  x: Float[Array, "B L D"], fetched: FeedForwardWeights, activation: Activation
) -> Float[Array, "B L D"]:
  """Runs rows through what `ExpertFetch.fetch` has fetched for them."""
  grouped = x.reshape(fetched.wo.shape[0], -1, x.shape[-1])
  hidden = activation(
    *(jnp.einsum("gtd,gdh->gth", grouped, wi) for wi in fetched.wi)
  )
  return jnp.einsum("gth,ghd->gtd", hidden, fetched.wo).reshape(x.shape)


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
  num_groups = num_rows // rows
  fetched = fetch(weights, experts[::rows], _fetch_axes(partitioning), x.dtype)
  grouped = x.reshape(num_groups, rows * length, width)
  hidden = activation(
    *(
      checkpoint_name(jnp.einsum("gtd,gdh->gth", grouped, w), _HIDDEN)
      for w in fetched.wi
    )
  )
  # Gates of rows go into `wo`, where they cost least.
  wo = fetched.wo
  if gates.ndim == 2:
    wo = _scaled(wo, gates[::rows], weights)
  else:
    of_tokens = gates.reshape(num_groups, rows * length, -1)
    of_hidden = _gates_of_hidden(of_tokens, weights, size=hidden.shape[-1])
    hidden = hidden * of_hidden.astype(x.dtype)
  y = jnp.einsum("gth,ghd->gtd", hidden, wo)
  if partitioning is not None:
    y = jax.lax.psum(y, axes.MODEL_MESH)
  return y.reshape(x.shape)


def _scaled(
  wo: Float[Array, "G H D"],
  gates: Float[Array, "G K"],
  weights: FeedForwardWeights,
) -> Float[Array, "G H D"]:
  """Folds gates into output matrices."""
  of_hidden = _gates_of_hidden(gates, weights, size=wo.shape[1])
  return wo * of_hidden[..., None].astype(wo.dtype)


def _gates_of_hidden(
  gates: Float[Array, "*b K"], weights: FeedForwardWeights, *, size: int
) -> Float[Array, "*b H"]:
  """Repeats gates for the units of fetched experts: slices, then K, then f."""
  of_slice = jnp.repeat(gates, weights.wo.shape[1], axis=-1)
  return jnp.tile(of_slice, size // of_slice.shape[-1])


def fetch(
  weights: FeedForwardWeights,
  experts: Int[Array, "G K"],
  mesh_axes: tuple[str, ...],
  dtype: jnp.dtype,
) -> FeedForwardWeights:
  """Gathers the experts of each group into one feed-forward of width K·F.

  Its hidden units are those of the K experts, slice after slice.

  Args:
    weights: This device's slice of all experts.
    experts: Wanted by this device's groups. E, a choice not made, fetches any.
    mesh_axes: Over which the other slices lie; none if there are no others.
    dtype: What to compute in, and what travels.

  Returns:
    `wi [G, D, K·F]` and `wo [G, K·F, D]`.
  """
  wanted = experts[None]
  if mesh_axes:
    wanted = jax.lax.all_gather(experts, mesh_axes)
  wanted = jnp.minimum(wanted, weights.wo.shape[0] - 1)

  def deliver(w):
    slices = _take(w, wanted, dtype)  # [slices, G, K, ...]
    if mesh_axes:
      slices = jax.lax.all_to_all(slices, mesh_axes, 0, 0)
    return slices

  groups, width = experts.shape[0], weights.wo.shape[2]

  def join(w):
    w = jnp.einsum("sgkdf->gdskf", deliver(w)).reshape(groups, width, -1)
    # Laid out here, once. Otherwise the TPU compiler would rather lay out the
    # much larger hidden layer anew in the backward pass.
    return jax.lax.optimization_barrier(w)

  wo = jnp.moveaxis(deliver(weights.wo), 0, 1).reshape(groups, -1, width)
  return FeedForwardWeights(tuple(map(join, weights.wi)), wo)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _take(
  w: Float[Array, "E m n"], experts: Int[Array, "s G K"], dtype: jnp.dtype
) -> Float[Array, "s G K m n"]:
  """Picks experts, cast to `dtype`; their gradients are summed in float32.

  On a TPU by a product with one-hot rows, which is exact, and costs 2GE / 3T of
  the layer with T tokens in G groups: gathering and scattering large slices
  one by one takes the longer time.
  """
  if platform() != "tpu":
    return jnp.take(w, experts, axis=0).astype(dtype)
  chosen = jax.nn.one_hot(experts, w.shape[0], dtype=dtype)
  return jnp.einsum(
    "sgke,emn->sgkmn",
    chosen,
    w.astype(dtype),
    precision=jax.lax.Precision.HIGHEST,
  )


def _take_forward(w, experts, dtype):
  return _take(w, experts, dtype), (w, experts)


def _take_backward(dtype, residuals, gradients):
  del dtype
  w, experts = residuals
  if platform() != "tpu":
    gradients = gradients.astype(w.dtype)
    return jnp.zeros_like(w).at[experts].add(gradients), None
  chosen = jax.nn.one_hot(experts, w.shape[0], dtype=gradients.dtype)
  summed = jnp.einsum(
    "sgke,sgkmn->emn",
    chosen,
    gradients,
    precision=jax.lax.Precision.HIGHEST,
    preferred_element_type=w.dtype,
  )
  return summed, None


_take.defvjp(_take_forward, _take_backward)

"""Experts fetched for groups of rows, and what is done with them."""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.expert_products import expert_product
from taskmoe_jax.moe.gather import weighted_sum
from taskmoe_jax.partitioning.rules import platform

# What is kept for the backward pass where fetched experts are not.
HIDDEN = "hidden"
# More products one by one take too long to compile.
_MOST_ONE_BY_ONE = 16


def apply_fetched(
  x: Float[Array, "B L D"], fetched: FeedForwardWeights, activation: Activation
) -> Float[Array, "B L D"]:
  """Runs rows through what `ExpertFetch.fetch` has fetched for them."""
  grouped = x.reshape(fetched.wo.shape[0], -1, x.shape[-1])
  return _run(grouped, fetched, activation).reshape(x.shape)


def apply_experts(
  x: Float[Array, "G t D"],
  weights: FeedForwardWeights,
  experts: Int[Array, "G K"],
  gates: Float[Array, "G t K"],
  activation: Activation,
) -> Float[Array, "G t D"]:
  """Runs groups of tokens through K experts each, one after the other.

  What `fetch` and one wide feed-forward compute as well. On a CPU this is the
  faster way, since no matrix is laid out anew to stand beside another; and for
  a few groups their products one by one are faster than as a batch of products,
  whose experts and their gradients are copied.
  """
  groups, num_selected = experts.shape
  experts = jnp.minimum(experts, weights.wo.shape[0] - 1)
  if experts.size <= _MOST_ONE_BY_ONE:
    return jnp.stack(
      [
        sum(
          _run(rows, _expert(weights, expert), activation) * gate[:, None]
          for expert, gate in zip(of_group, of_gates.T, strict=True)
        )
        for rows, of_group, of_gates in zip(
          x, experts, gates.astype(x.dtype), strict=True
        )
      ]
    )
  copies = jnp.broadcast_to(x[:, None], (groups, num_selected, *x.shape[1:]))
  copies = copies.reshape(-1, *x.shape[1:])
  done = _run(copies, weights.take(experts.reshape(-1)), activation)
  done = done.reshape(groups, num_selected, *x.shape[1:])
  return weighted_sum(done, gates.swapaxes(1, 2))


def _expert(
  weights: FeedForwardWeights, expert: Int[Array, ""]
) -> FeedForwardWeights:
  """One of the experts; its gradient is added where it lies."""
  return jax.tree.map(
    lambda w: jax.lax.dynamic_index_in_dim(w, expert, keepdims=False), weights
  )


def _run(
  x: Float[Array, "*G t D"], expert: FeedForwardWeights, activation: Activation
) -> Float[Array, "*G t D"]:
  """Tokens through an expert, or groups of them each through its own."""
  expert = expert.astype(x.dtype)
  hidden = activation(
    *(checkpoint_name(expert_product(x, wi), HIDDEN) for wi in expert.wi)
  )
  return expert_product(hidden, expert.wo)


def scaled(
  wo: Float[Array, "G H D"],
  gates: Float[Array, "G K"],
  weights: FeedForwardWeights,
) -> Float[Array, "G H D"]:
  """Folds gates into output matrices."""
  of_hidden = gates_of_hidden(gates, weights, size=wo.shape[1])
  return wo * of_hidden[..., None].astype(wo.dtype)


def gates_of_hidden(
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

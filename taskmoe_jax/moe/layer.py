"""The MoE feed-forward layer: router, experts, and the engine between them."""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float

from taskmoe_jax import axes
from taskmoe_jax.layers.feed_forward import (
  Activation,
  FeedForwardWeights,
  feed_forward_weights,
)
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.moe.dispatch import Phase, choose_engine, expert_axes
from taskmoe_jax.moe.dispatched import Dispatched
from taskmoe_jax.moe.routing import Router, RouterInputs, Routing
from taskmoe_jax.partitioning.rules import constrain


@flax.struct.dataclass
class RoutingStatistics:
  """What a layer's routing did, for its loss and for the log.

  Arrays of NumPy once they have been fetched from the devices.

  Attributes:
    balance_loss: See `moe.routing.Routing`, as are z_loss, load and entropy.
    z_loss: Unweighted, too.
    load: Share of choices on each expert.
    entropy: In nats.
    dropped: Share of choices for which no expert had a place.
  """

  balance_loss: Float[Array | np.ndarray, "*layers"]
  z_loss: Float[Array | np.ndarray, "*layers"]
  load: Float[Array | np.ndarray, "*layers E"]
  entropy: Float[Array | np.ndarray, "*layers"]
  dropped: Float[Array | np.ndarray, "*layers"]


class Experts(nn.Module):
  """The weights of E feed-forward networks, `wi [E, D, F]`, `wo [E, F, D]`.

  They are given in float32: an engine casts them after it has moved them, so
  that gradients from many devices are summed in float32.
  """

  config: MoeConfig
  activation: Activation

  @nn.compact
  def __call__(self, embed_dim: int) -> FeedForwardWeights:
    expert, matrix_axes = expert_axes(self.config)
    return feed_forward_weights(
      self,
      {expert: self.config.num_experts},
      embed_dim,
      self.config.expert_mlp_dim,
      self.activation,
      jnp.dtype(jnp.float32),
      matrix_axes,
    )


class MoeFeedForward(nn.Module):
  """`sum_k gate_k · FFN_k(x)` over the K chosen experts (paper, section 2)."""

  config: MoeConfig
  num_tasks: int
  activation: Activation

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], inputs: RouterInputs, *, train: bool
  ) -> tuple[Float[Array, "B L D"], RoutingStatistics]:
    routing = Router(self.config, self.num_tasks, name="router")(x, inputs)
    weights = Experts(self.config, self.activation, name="experts")(x.shape[-1])
    engine = choose_engine(
      self.config,
      Phase.of(train=train, length=x.shape[1]),
      num_rows=x.shape[0],
      rows_per_task_group=inputs.rows_per_task_group,
    ).engine
    valid = inputs.segment_ids > 0
    done = engine(x, routing, valid, weights, self.activation)
    y = constrain(done.y, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)
    return y, RoutingStatistics(
      balance_loss=routing.balance_loss,
      z_loss=routing.z_loss,
      load=jax.lax.stop_gradient(routing.load),
      entropy=jax.lax.stop_gradient(routing.entropy),
      dropped=_dropped(done, routing, valid, self.config.num_experts),
    )


def _dropped(
  done: Dispatched, routing: Routing, valid: Bool[Array, "B L"], experts: int
) -> Float[Array, ""]:
  """Share of the choices of valid tokens that no expert had a place for."""
  if done.kept is None:
    return jnp.zeros(())
  chosen = routing.experts < experts
  if routing.by_row:
    chosen = chosen[:, None]
  wanted = chosen & valid[..., None]
  lost = jnp.sum(wanted & ~done.kept)
  return lost / jnp.maximum(jnp.sum(wanted), 1).astype(jnp.float32)

"""The MoE feed-forward layer: router, experts, and the engine between them."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
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
from taskmoe_jax.moe.routing import Router, RouterInputs
from taskmoe_jax.moe.statistics import RoutingStatistics, measure
from taskmoe_jax.partitioning.rules import constrain


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
    config = self.config
    routing = Router(config, self.num_tasks, name="router")(
      x, inputs, train=train
    )
    weights = Experts(self.config, self.activation, name="experts")(x.shape[-1])
    engine = choose_engine(
      self.config,
      Phase.of(train=train, length=x.shape[1]),
      num_rows=x.shape[0],
      rows_per_task_group=inputs.rows_per_task_group,
    ).engine
    valid = inputs.segment_ids > 0

    def run(x):
      done = engine(x, routing, valid, weights, self.activation)
      return done.y, done.kept

    if train and config.gating_dropout_rate:
      skip = jax.random.bernoulli(
        self.make_rng("dropout"), config.gating_dropout_rate
      )
      y, kept = _unless(skip, run, x)
    else:
      y, kept = run(x)
    y = constrain(y, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)
    return y, measure(routing, kept, inputs, self.num_tasks, config.num_experts)


def _unless(
  skip: Bool[Array, ""], run: Callable, x: Float[Array, "B L D"]
) -> tuple[Float[Array, "B L D"], Bool[Array, "B L K"] | None]:
  """Runs an engine, or not: then the layer adds nothing, and drops nothing.

  A branch and no product with zero, so that what is skipped costs nothing, and
  no device sends anything. All devices have the same coin. As in Gating Dropout
  (arXiv 2205.14336) what remains is not scaled; losses and statistics are of
  the router, which is asked in any case.
  """
  y, kept = jax.eval_shape(run, x)

  def nothing(_):
    return (
      jnp.zeros(y.shape, y.dtype),
      None if kept is None else jnp.ones(kept.shape, kept.dtype),
    )

  return jax.lax.cond(skip, nothing, run, x)

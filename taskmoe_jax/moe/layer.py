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
from taskmoe_jax.moe.dispatch import Engine, Phase, choose_engine, expert_axes
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.moe.fetched_experts import apply_fetched
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.routing import Router, Routing
from taskmoe_jax.moe.statistics import (
  GATE_STATISTICS,
  RoutingStatistics,
  measure,
  measure_gates,
)
from taskmoe_jax.partitioning.rules import constrain


class Experts(nn.Module):
  """The weights of E feed-forward networks, `wi [E, D, F]`, `wo [E, F, D]`.

  They are float32: an engine casts them after it has moved them, so that
  gradients from many devices are summed in float32.
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

  def setup(self):
    self.router = Router(self.config, self.num_tasks)
    self.experts = Experts(self.config, self.activation)

  def __call__(
    self, x: Float[Array, "B L D"], inputs: RouterInputs, *, train: bool
  ) -> tuple[Float[Array, "B L D"], RoutingStatistics]:
    config = self.config
    routing = self.router(x, inputs, train=train)
    self._leave_gate_statistics(routing, inputs)
    weights = self.experts(x.shape[-1])
    engine = self._engine(Phase.of(train=train, length=x.shape[1]), inputs)
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

  def fetch(
    self, x: Float[Array, "B 1 D"], inputs: RouterInputs
  ) -> FeedForwardWeights | None:
    """The experts of the rows, for all steps of a decoding.

    Args:
      x: Any tokens; only their width and dtype are read.
      inputs: The router's inputs during decoding.

    Returns:
      What `step` takes; None where tokens choose for themselves.
    """
    engine = self._engine(Phase.DECODE, inputs)
    if not isinstance(engine, ExpertFetch):
      return None
    routing = self.router(x, inputs, train=False)
    return engine.fetch(routing, self.experts(x.shape[-1]), x.dtype)

  def step(
    self,
    x: Float[Array, "B M D"],
    inputs: RouterInputs,
    fetched: FeedForwardWeights | None,
  ) -> Float[Array, "B M D"]:
    """One step of M hypotheses of each row, with what `fetch` returned."""
    if fetched is None:
      return self(x, inputs, train=False)[0]
    y = apply_fetched(x, fetched, self.activation)
    return constrain(y, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)

  def _leave_gate_statistics(
    self, routing: Routing, inputs: RouterInputs
  ) -> None:
    """Leaves them to a caller of `apply` that asks for their collection."""
    asked = self.is_mutable_collection(GATE_STATISTICS)
    if asked and routing.softmax is not None and not self.is_initializing():
      self.sow(GATE_STATISTICS, "gates", measure_gates(routing, inputs))

  def _engine(self, phase: Phase, inputs: RouterInputs) -> Engine:
    return choose_engine(
      self.config,
      phase,
      num_rows=inputs.task_ids.shape[0],
      rows_per_task_group=inputs.rows_per_task_group,
    ).engine


def _unless(
  skip: Bool[Array, ""], run: Callable, x: Float[Array, "B L D"]
) -> tuple[Float[Array, "B L D"], Bool[Array, "B L K"] | None]:
  """Runs an engine unless `skip`: then the layer adds and drops nothing.

  It is a branch rather than a product with zero, so a skipped layer costs
  nothing, and no device sends anything. All devices draw the same. As in Gating
  Dropout (arXiv 2205.14336) nothing is rescaled; losses and statistics come
  from the router, which runs in any case.
  """
  y, kept = jax.eval_shape(run, x)

  def nothing(_):
    return (
      jnp.zeros(y.shape, y.dtype),
      None if kept is None else jnp.ones(kept.shape, kept.dtype),
    )

  return jax.lax.cond(skip, nothing, run, x)

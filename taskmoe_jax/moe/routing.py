"""Routers: which K experts, with which gates, for each token or row.

All learned granularities share one gate, softmax(features · table), and differ
in the features (`moe.granularity`): a token's own vector, the mean of its
sentence, or a learned vector of its task. So switching granularity switches
nothing else.

A worked example, K = 2 of E = 3: scores (1, 0, 2) give probabilities
(0.24, 0.09, 0.67), experts (2, 0), and gates (0.73, 0.27) that sum to 1.
"""

import dataclasses
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.noise import draw_by_row
from taskmoe_jax.layers.projections import scaled_normal, with_axes
from taskmoe_jax.moe.config import (
  MoeConfig,
  Priority,
  Renormalize,
  SecondExpertPolicy,
)
from taskmoe_jax.moe.gates import (
  drop_at_random,
  jittered,
  masked,
  renormalized,
  select_experts,
  without_padding,
)
from taskmoe_jax.moe.router_inputs import RouterInputs


@flax.struct.dataclass
class Softmax:
  """The softmax over the scores of each decision.

  Attributes:
    probabilities: The probabilities of all experts.
    log_partition: Logarithm of the sum that they are divided by.
    entropy: Entropy of the probabilities, in nats.
  """

  probabilities: Float[Array, "B *L E"]
  log_partition: Float[Array, "B *L"]
  entropy: Float[Array, "B *L"]

  @classmethod
  def of(cls, scores: Float[Array, "B *L E"]) -> "Softmax":
    probabilities = jax.nn.softmax(scores, axis=-1)
    logs = jax.nn.log_softmax(scores, axis=-1)
    return cls(
      probabilities,
      jax.nn.logsumexp(scores, axis=-1),
      -jnp.sum(probabilities * logs, axis=-1),
    )


@flax.struct.dataclass
class Routing:
  """Experts and gates of every token `[B, L, K]`, or of every row `[B, K]`.

  Attributes:
    experts: Chosen experts, best first; E marks a choice that was not made.
    gates: Their weights, in float32; 0 for a choice that was not made. They may
      be given for every token though the experts are for every row.
    priority: Tokens or rows with a higher one claim an expert's places first.
      None keeps their order.
    softmax: What the gates come from, for losses and statistics; None with a
      fixed table. Engines do not read it.
  """

  experts: Int[Array, "B *L K"]
  gates: Float[Array, "B *N K"]
  priority: Float[Array, "B *M"] | None = None
  softmax: Softmax | None = None

  @property
  def by_row(self) -> bool:
    return self.experts.ndim == 2


class Router(nn.Module):
  """Chooses experts at the config's granularity; see `moe.granularity`.

  All noise is for training only, from the stream `dropout`. Noise that changes
  a decision is drawn once per decision: the tokens of a sentence share it, and
  so do all rows of a task, wherever they are.
  """

  config: MoeConfig
  num_tasks: int

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], inputs: RouterInputs, *, train: bool
  ) -> Routing:
    config = self.config
    if config.granularity.has_gate:
      routing = self._by_gate(x, inputs, train=train)
    else:
      routing = self._by_table(inputs)
    shape = inputs.segment_ids.shape
    if train and config.priority is Priority.RANDOM:
      priority = draw_by_row(
        jax.random.uniform, self.make_rng("dropout"), shape
      )
      routing = dataclasses.replace(routing, priority=priority)
    if train and config.expert_mask_rate:
      gates = masked(
        routing.gates[:, None] if routing.by_row else routing.gates,
        draw_by_row(
          jax.random.uniform,
          self.make_rng("dropout"),
          (*shape, config.num_selected),
        ),
        config.expert_mask_rate,
      )
      routing = dataclasses.replace(routing, gates=gates)
    return routing

  def _by_gate(
    self, x: jax.Array, inputs: RouterInputs, *, train: bool
  ) -> Routing:
    config = self.config
    policy = config.second_expert_policy if train else SecondExpertPolicy.ALL
    scores = self._scores(x, inputs, train=train)
    softmax = Softmax.of(scores)
    bias = gumbel = None
    if config.balance_bias_rate:
      bias = self._balance_bias()
    if policy is SecondExpertPolicy.SAMPLING:
      gumbel = self._draw(jax.random.gumbel, inputs, config.num_experts)
    gates, experts, _ = select_experts(
      scores, config.num_selected, bias=bias, gumbel=gumbel
    )
    if policy is SecondExpertPolicy.RANDOM:
      assert config.second_expert_threshold is not None, "MoeConfig checks it"
      gates, experts = drop_at_random(
        gates,
        experts,
        self._draw(jax.random.uniform, inputs, config.num_selected - 1),
        config.second_expert_threshold,
        config.num_experts,
      )
      if config.renormalize is Renormalize.AFTER:
        gates = renormalized(gates)
    priority = None
    if config.priority is Priority.GATE:
      best = softmax.probabilities.max(axis=-1)
      priority = jax.lax.stop_gradient(best)
    return Routing(experts, gates, priority, softmax)

  def _scores(
    self, x: jax.Array, inputs: RouterInputs, *, train: bool
  ) -> Float[Array, "B *L E"]:
    config = self.config
    table = self._table("table", x.shape[-1])
    features = config.granularity.features(x, inputs).astype(jnp.float32)
    if train and config.jitter:
      noise = self._draw(jax.random.uniform, inputs, features.shape[-1])
      features = jittered(features, noise, config.jitter)
    scores = jnp.einsum("...d,de->...e", features, table)
    if config.has_padding:
      scores = without_padding(scores, self._is_expert())
    return config.granularity.scores(
      scores, inputs, config, lambda name: self._table(name, x.shape[-1])
    )

  def _table(self, name: str, embed_dim: int) -> Float[Array, "D E"]:
    return self.param(
      name,
      scaled_normal(embed_dim**-0.5, (axes.EMBED, axes.EXPERT)),
      (embed_dim, self.config.num_experts),
      jnp.float32,
    )

  def _is_expert(self) -> Float[Array, "E"]:
    """1 for an expert and 0 for padding; only `export.pruning` sets it."""
    return self.param(
      "is_expert",
      with_axes(nn.initializers.ones, (axes.EXPERT,)),
      (self.config.num_experts,),
      jnp.float32,
    )

  def _balance_bias(self) -> Float[Array, "E"]:
    """Changed only by `gates.balanced_bias`, after the optimizer's step."""
    bias = self.param(
      "balance_bias",
      with_axes(nn.initializers.zeros, (axes.EXPERT,)),
      (self.config.num_experts,),
      jnp.float32,
    )
    return jax.lax.stop_gradient(bias)

  def _by_table(self, inputs: RouterInputs) -> Routing:
    config = self.config
    experts = config.granularity.experts(inputs, self.num_tasks, config)
    gates = jnp.full(experts.shape, 1.0 / config.num_selected, jnp.float32)
    return Routing(experts, gates)

  def _draw(
    self, draw: Callable, inputs: RouterInputs, size: int
  ) -> Float[Array, "B *L n"]:
    """Draws `size` numbers for each decision."""
    key = self.make_rng("dropout")
    granularity = self.config.granularity
    if granularity.by_task:
      return draw(key, (self.num_tasks, size))[inputs.task_ids]
    rows, length = inputs.segment_ids.shape
    if granularity.by_token:
      return draw_by_row(draw, key, (rows, length, size))
    if not inputs.packed:
      return draw_by_row(draw, key, (rows, size))
    # A row of L tokens holds at most L sentences.
    sentences = jnp.maximum(inputs.segment_ids - 1, 0)
    drawn = draw_by_row(draw, key, (rows, length, size))
    return jnp.take_along_axis(drawn, sentences[:, :, None], axis=1)

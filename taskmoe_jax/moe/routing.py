"""Routers: which K experts, with which gates, for each token or row.

All learned granularities share one gate, softmax(features · table), and differ
in the features: a token's own vector, the mean of its sentence, or a learned
vector of its task. So switching granularity switches nothing else.

A worked example, K = 2 of E = 3: scores (1, 0, 2) give probabilities
(0.24, 0.09, 0.67), experts (2, 0), and gates (0.73, 0.27) that sum to 1.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.initializers import scaled_normal
from taskmoe_jax.moe.config import Granularity, MoeConfig
from taskmoe_jax.moe.top_k import top_k


@flax.struct.dataclass
class RouterInputs:
  """What routers know about the rows, besides the tokens at hand.

  Attributes:
    task_ids: Task of each row.
    segment_ids: Which sentence a token belongs to: 1, 2, ... and 0 for padding.
    task_vectors: The stack's learned vector of each row's task, if it has one.
    sentence: Mean of the encoder's output over a token's sentence, for routers
      in a decoder: `[B, D]`, or `[B, L, D]` when rows hold several sentences.
    packed: Whether a row may hold several sentences.
    rows_per_task_group: Rows stand in groups of this many with one task each.
  """

  task_ids: Int[Array, "B"]
  segment_ids: Int[Array, "B L"]
  task_vectors: Float[Array, "B D"] | None = None
  sentence: Float[Array, "B *L D"] | None = None
  packed: bool = flax.struct.field(pytree_node=False, default=False)
  rows_per_task_group: int = flax.struct.field(pytree_node=False, default=1)


@flax.struct.dataclass
class Routing:
  """Experts and gates of every token `[B, L, K]`, or of every row `[B, K]`.

  Attributes:
    experts: Chosen experts, best first.
      E stands for a choice that was not made.
    gates: Their weights, in float32; 0 for a choice that was not made. They may
      be given for every token though the experts are for every row.
    balance_loss: 1 when experts share the tokens evenly, E at worst.
    z_loss: Mean squared log-partition of the scores.
    load: Share of all choices that fell on each expert; sums to 1.
    entropy: Mean entropy, in nats, of the probabilities over experts.
    priority: Who claims an expert's places first where they are few: tokens or
      rows of a higher one. None leaves them in their order.
  """

  experts: Int[Array, "B *L K"]
  gates: Float[Array, "B *N K"]
  balance_loss: Float[Array, ""]
  z_loss: Float[Array, ""]
  load: Float[Array, "E"]
  entropy: Float[Array, ""]
  priority: Float[Array, "B *M"] | None = None

  @property
  def by_row(self) -> bool:
    return self.experts.ndim == 2


def select_experts(
  scores: Float[Array, "*b E"], num_selected: int
) -> tuple[Float[Array, "*b K"], Int[Array, "*b K"], Float[Array, "*b E"]]:
  """Returns gates, experts and probabilities of the K best experts.

  Gates of K > 1 experts are renormalised to sum to 1, before any token is
  dropped, as in the authors' library (lingvo, `Top2GatingOnLogits`). With K = 1
  that would make every gate a constant 1, and the router could not learn: there
  the gate is the probability itself, as in Switch. Ties go to the lower index.
  """
  probabilities = jax.nn.softmax(scores, axis=-1)
  gates, experts = top_k(probabilities, num_selected)
  if num_selected > 1:
    gates = renormalized(gates)
  return gates, experts, probabilities


def renormalized(gates: Float[Array, "..."], axis: int = -1) -> jax.Array:
  """Scales gates to sum to 1, or leaves them 0 where all are."""
  total = jnp.sum(gates, axis=axis, keepdims=True)
  return gates / jnp.where(total > 0, total, 1.0)


def static_experts(
  num_tasks: int, num_experts: int, num_selected: int
) -> np.ndarray:
  """Deals experts out to tasks in turn, like cards: `[R, K]`.

  Task r gets experts rK, rK+1, ... modulo E, so tasks share none while R·K is
  at most E. The paper gives no rule for its Static MoE; this one is ours.
  """
  dealt = np.arange(num_tasks * num_selected).reshape(num_tasks, num_selected)
  return (dealt % num_experts).astype(np.int32)


def sentence_mean(
  x: Float[Array, "B S D"],
  segment_ids: Int[Array, "B S"],
  of_segments: Int[Array, "B L"],
  *,
  packed: bool,
) -> Float[Array, "B *L D"]:
  """Mean of `x` over each sentence.

  Sentences of one row never see each other: packed, each token of `of_segments`
  gets the mean of the tokens of `x` with its own segment id in its own row
  (lingvo's assumes ids unique in the whole batch). Padding counts nowhere.

  Returns:
    `[B, D]`, or `[B, L, D]` when packed. Zero where a sentence has no tokens.
  """
  if not packed:
    weights = (segment_ids > 0).astype(jnp.float32)
    total = jnp.einsum("bs,bsd->bd", weights, x.astype(jnp.float32))
    return total / jnp.maximum(weights.sum(1), 1.0)[:, None]
  same = of_segments[:, :, None] == segment_ids[:, None, :]
  weights = (same & (segment_ids > 0)[:, None, :]).astype(jnp.float32)
  total = jnp.einsum("bls,bsd->bld", weights, x.astype(jnp.float32))
  return total / jnp.maximum(weights.sum(2), 1.0)[:, :, None]


def _means(
  values: Float[Array, "B *L E"], valid: Bool[Array, "B L"]
) -> Float[Array, "E"]:
  """Mean over valid tokens; a row counts once for each of its tokens."""
  weights = valid.astype(jnp.float32)
  if values.ndim == 2:
    weights = weights.sum(1)
  total = jnp.tensordot(weights, values, axes=weights.ndim)
  return total / jnp.maximum(weights.sum(), 1.0)


def routing_from_scores(
  scores: Float[Array, "B *L E"], num_selected: int, valid: Bool[Array, "B L"]
) -> Routing:
  """Chooses experts by scores, and measures the choice over valid tokens.

  The balance loss is E · sum_e f_e P_e, with f the share of first choices and
  P the mean probability (GShard, arXiv 2006.16668, equation 4; lingvo's
  `Top2GatingOnLogits` writes it as a mean times E squared). The z-loss is that
  of ST-MoE (arXiv 2202.08906, equation 5).
  """
  num_experts = scores.shape[-1]
  gates, experts, probabilities = select_experts(scores, num_selected)
  first = jax.nn.one_hot(experts[..., 0], num_experts, dtype=jnp.float32)
  chosen = jax.nn.one_hot(experts, num_experts, dtype=jnp.float32).mean(-2)
  entropy = -jnp.sum(
    probabilities * jax.nn.log_softmax(scores, -1), axis=-1, keepdims=True
  )
  log_partition = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
  balance = _means(first, valid) * _means(probabilities, valid)
  return Routing(
    experts=experts,
    gates=gates,
    balance_loss=num_experts * jnp.sum(balance),
    z_loss=_means(jnp.square(log_partition), valid)[0],
    load=_means(chosen, valid),
    entropy=_means(entropy, valid)[0],
  )


class Router(nn.Module):
  """Chooses experts at the granularity that the config names.

  A decoder routed by sentence uses the mean of the *encoder's* output for that
  sentence, in training and in decoding alike. The authors' code averages over
  the decoder's own tokens: it sees the future in training and cannot be
  reproduced step by step (PAPER.md section 1).
  """

  config: MoeConfig
  num_tasks: int

  @nn.compact
  def __call__(self, x: Float[Array, "B L D"], inputs: RouterInputs) -> Routing:
    config = self.config
    valid = inputs.segment_ids > 0
    if config.granularity is Granularity.STATIC:
      return self._static(inputs, valid)
    table = self.param(
      "table",
      scaled_normal(x.shape[-1] ** -0.5, (axes.EMBED, axes.EXPERT)),
      (x.shape[-1], config.num_experts),
      jnp.float32,
    )
    features = self._features(x, inputs).astype(jnp.float32)
    scores = jnp.einsum("...d,de->...e", features, table)
    return routing_from_scores(scores, config.num_selected, valid)

  def _features(self, x: jax.Array, inputs: RouterInputs) -> jax.Array:
    if self.config.granularity is Granularity.TOKEN:
      return x
    if self.config.granularity is Granularity.TASK:
      return inputs.task_vectors
    if inputs.sentence is not None:
      return inputs.sentence
    segments = inputs.segment_ids
    return sentence_mean(x, segments, segments, packed=inputs.packed)

  def _static(self, inputs: RouterInputs, valid: jax.Array) -> Routing:
    config = self.config
    k = config.num_selected
    table = static_experts(self.num_tasks, config.num_experts, k)
    experts = jnp.take(table, inputs.task_ids, axis=0)
    chosen = jax.nn.one_hot(experts, config.num_experts, dtype=jnp.float32)
    return Routing(
      experts=experts,
      gates=jnp.full(experts.shape, 1.0 / k, jnp.float32),
      balance_loss=jnp.zeros(()),
      z_loss=jnp.zeros(()),
      load=_means(chosen.mean(-2), valid),
      entropy=jnp.log(jnp.float32(k)),
    )

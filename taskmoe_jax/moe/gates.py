"""From scores to experts and gates: the mathematics of routers.

Also `top_k` for few values, and the bias that balances the load of experts.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# So far below every score that its softmax is 0, and yet finite.
_NOT_A_CANDIDATE = -1e9


def select_experts(
  scores: Float[Array, "*b E"],
  num_selected: int,
  *,
  bias: Float[Array, "E"] | None = None,
  gumbel: Float[Array, "*b E"] | None = None,
) -> tuple[Float[Array, "*b K"], Int[Array, "*b K"], Float[Array, "*b E"]]:
  """Returns gates, experts and probabilities of the K best experts.

  Gates of K > 1 experts are renormalized to sum to 1, before any token is
  dropped, as in the authors' library (lingvo, `Top2GatingOnLogits`). With K = 1
  that would make every gate a constant 1, and the router could not learn: there
  the gate is the probability itself, as in Switch. Ties go to the lower index.

  Args:
    scores: The scores of all experts.
    num_selected: K.
    bias: Added to the probabilities for the choice alone, not for the gates.
    gumbel: Standard Gumbel noise. If given, choices 2 to K are drawn one after
      the other from the probabilities of the remaining experts
      (lingvo's policy `sampling`; Kool et al., arXiv 1903.06059, for K > 2).
  """
  probabilities = jax.nn.softmax(scores, axis=-1)
  ranks = jax.lax.stop_gradient(scores)
  if bias is not None:
    ranks = jax.lax.stop_gradient(probabilities) + jnp.broadcast_to(
      bias, scores.shape
    )
  if gumbel is not None:
    first = jax.nn.one_hot(
      jnp.argmax(ranks, axis=-1), scores.shape[-1], dtype=jnp.bool_
    )
    ranks = jnp.where(first, jnp.inf, ranks + gumbel)
  experts = top_k(ranks, num_selected)
  gates = pick(probabilities, experts)
  if num_selected > 1:
    gates = renormalized(gates)
  return gates, experts, probabilities


def renormalized(gates: Float[Array, "..."], axis: int = -1) -> jax.Array:
  """Scales gates to sum to 1; if all are 0 they stay 0."""
  total = jnp.sum(gates, axis=axis, keepdims=True)
  return gates / jnp.where(total > 0, total, 1.0)


def candidates(
  task_scores: Float[Array, "*b E"], num_candidates: int
) -> Int[Array, "*b M"]:
  """The M experts with the highest scores for a task, best first."""
  return top_k(jax.lax.stop_gradient(task_scores), num_candidates)


def among_candidates(
  scores: Float[Array, "B L E"],
  task_scores: Float[Array, "B E"],
  num_candidates: int,
) -> Float[Array, "B L E"]:
  """Scores of tokens and of their task together, of the task's candidates.

  The task's scores are part of the sum so that they get a gradient: the choice
  of candidates is not differentiable. All other experts have probability 0.
  """
  chosen = jax.nn.one_hot(
    candidates(task_scores, num_candidates),
    scores.shape[-1],
    dtype=jnp.bool_,
  ).any(axis=-2)
  return jnp.where(
    chosen[:, None], scores + task_scores[:, None], _NOT_A_CANDIDATE
  )


def without_padding(
  scores: Float[Array, "*b E"], is_expert: Float[Array, "E"]
) -> Float[Array, "*b E"]:
  """Gives probability 0 to the padding that fills a layer up to E experts."""
  shown = jnp.broadcast_to(is_expert > 0, scores.shape)
  return jnp.where(shown, scores, _NOT_A_CANDIDATE)


def jittered(
  features: Float[Array, "*b D"], uniform: Float[Array, "*b D"], jitter: float
) -> Float[Array, "*b D"]:
  """Multiplies by noise that is uniform in 1 - jitter..1 + jitter.

  Switch's exploration (arXiv 2101.03961, section 2.2).
  """
  return features * (1 + jitter * (2 * uniform - 1))


def drop_at_random(
  gates: Float[Array, "*b K"],
  experts: Int[Array, "*b K"],
  uniform: Float[Array, "*b J"],
  threshold: float,
  num_experts: int,
) -> tuple[Float[Array, "*b K"], Int[Array, "*b K"]]:
  """Makes choice k = 2..K with probability min(1, gate_k / threshold).

  Lingvo's policy `random`. An expert with a small gate is seldom used,
  which saves capacity; with a threshold of 0.5 "historically better than all"
  (its comment for 512 experts).

  Args:
    gates: Sum to 1, and are kept where a choice is made.
    experts: Chosen experts, best first.
    uniform: Random numbers in [0, 1), for choices 2 to K.
    threshold: Above 0.
    num_experts: E, which marks a choice that is not made.
  """
  made = jnp.concatenate(
    [
      jnp.ones_like(gates[..., :1], bool),
      uniform * threshold < gates[..., 1:],
    ],
    axis=-1,
  )
  return jnp.where(made, gates, 0.0), jnp.where(made, experts, num_experts)


def masked(
  gates: Float[Array, "B #L K"], uniform: Float[Array, "B L K"], rate: float
) -> Float[Array, "B L K"]:
  """Sets a share of gates to 0 and scales the others to make up for it.

  NLLB's expert output masking (arXiv 2207.04672, section 6.2.1): a token
  does without some of its experts, so that it cannot rely on any one. Scaled as
  in dropout, so nothing changes after training.
  """
  return jnp.where(uniform >= rate, gates / (1 - rate), 0.0)


# For more passes than this a sort is cheaper.
_MAX_PASSES = 4


def top_k(values: Float[Array, "*b E"], k: int) -> Int[Array, "*b K"]:
  """Returns the indices of the K largest values, largest first.

  For small K it makes K passes of argmax: `jax.lax.top_k` sorts all E, which
  for a router's 32 scores per token costs more than the experts do (the TPU
  compiler estimates 20 ms for 8192 tokens on a v3 core, against 0.1 ms). Ties
  go to the lower index.
  """
  if k > _MAX_PASSES:
    return jax.lax.top_k(values, k)[1]
  indices, left = [], values
  for _ in range(k):
    index = jnp.argmax(left, axis=-1).astype(jnp.int32)
    indices.append(index)
    left = jnp.where(_is_at(index, left), -jnp.inf, left)
  return jnp.stack(indices, axis=-1)


def pick(
  values: Float[Array, "*b E"], indices: Int[Array, "*b K"]
) -> Float[Array, "*b K"]:
  """`values` at `indices`, by a product, so that its gradient is no scatter."""
  here = _is_at(indices, values[..., None, :])
  return jnp.sum(jnp.where(here, values[..., None, :], 0), axis=-1)


def _is_at(indices: jax.Array, values: jax.Array) -> jax.Array:
  return jax.nn.one_hot(indices, values.shape[-1], dtype=jnp.bool_)


def balanced_bias(
  bias: Float[Array, "*layers E"], load: Float[Array, "*layers E"], rate: float
) -> Float[Array, "*layers E"]:
  """Returns `bias + rate · sign(mean load - load)` (algorithm 1 of the paper).

  The load is that of the whole batch, over all devices, so that the bias does
  not depend on the mesh.
  """
  mean = jnp.mean(load, axis=-1, keepdims=True)
  return bias + rate * jnp.sign(mean - load)

"""Beam search: the best of several hypotheses that grow side by side."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from taskmoe_jax.decoding.compaction import Loop, run_loop
from taskmoe_jax.decoding.search import Beam, Normalization, Stopping
from taskmoe_jax.decoding.top_k import blockwise_top_k, iterative_top_k
from taskmoe_jax.decoding.translations import Hypotheses, Steps, put_at
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID

_NEVER = -jnp.inf


@flax.struct.dataclass
class _Progress:
  """The state of a search.

  Attributes:
    position: The position of the next token.
    tokens: Tokens of the running hypotheses, best first.
    log_probabilities: Of the running hypotheses; -inf for an empty slot.
    places: Slots of the running hypotheses' tokens in the memory.
    ended: The best hypotheses that have ended, best first; empty slots have
      scores of -inf.
    done: Rows whose search has ended.
    memory: The model's memory.
  """

  position: Int[Array, ""]
  tokens: Int[Array, "B M T"]
  log_probabilities: Float[Array, "B M"]
  places: Int[Array, "B M T"]
  ended: Hypotheses
  done: Bool[Array, "B"]
  memory: PyTree


@flax.struct.dataclass
class _Candidates:
  """Continuations `[B, 2M]` of a row's hypotheses, best first.

  Attributes:
    parents: The hypothesis that each continues.
    tokens: The token that each adds.
    log_probabilities: Log-probabilities of the continued hypotheses.
    ends: Whether the continued hypothesis has ended.
  """

  parents: Int[Array, "B c"]
  tokens: Int[Array, "B c"]
  log_probabilities: Float[Array, "B c"]
  ends: Bool[Array, "B c"]


def beam_search(steps: Steps, search: Beam) -> Hypotheses:
  """Searches with `search.size` hypotheses a row; see `Beam` for the rules."""
  loop = Loop(
    is_active=lambda steps, now: ~now.done,
    step=functools.partial(_step, search=search),
    hypotheses=lambda now: jax.tree.map(
      lambda x: x[:, : search.n_best], now.ended
    ),
  )
  return run_loop(loop, steps, _start(steps, search))


def _step(steps: Steps, now: _Progress, *, search: Beam) -> _Progress:
  last = jax.lax.dynamic_index_in_dim(
    now.tokens, jnp.maximum(now.position - 1, 0), axis=2, keepdims=False
  )
  own = jnp.broadcast_to(jnp.arange(search.size)[None], last.shape)
  places = put_at(now.places, own, now.position)
  logits, memory = steps.step(last, now.memory, now.position, places)
  found = _candidates(logits, now, steps, search)
  length = now.position + 1 - steps.prefix_lengths
  penalty = length_penalty(length, search)[:, None]
  ended = _merge(now, found, penalty, search)
  continuing = jnp.where(found.ends, _NEVER, found.log_probabilities)
  log_probabilities, chosen = iterative_top_k(continuing, search.size)
  parents = _pick(found.parents, chosen)
  tokens = put_at(
    _pick(now.tokens, parents), _pick(found.tokens, chosen), now.position
  )
  done = now.done | _is_over(
    log_probabilities, ended, now.position + 1, steps, search
  )
  return _Progress(
    position=now.position + 1,
    tokens=tokens,
    log_probabilities=log_probabilities,
    places=_pick(places, parents),
    ended=ended,
    done=done,
    memory=memory,
  )


def length_penalty(
  length: Int[Array, "*b"], search: Beam
) -> Float[Array, "*b"]:
  """What the log-probability of `length` tokens is divided by.

  The value for length 0, a prefix alone, is never used.
  """
  length = jnp.maximum(length, 1).astype(jnp.float32)
  if search.normalization is Normalization.GNMT:
    length = (5.0 + length) / 6.0
  return length**search.length_penalty


def _start(steps: Steps, search: Beam) -> _Progress:
  shape = (steps.limits.shape[0], search.size)
  empty = jnp.full((*shape, steps.target_length), PAD_ID, jnp.int32)
  # All hypotheses are the same at first, so that only one may run.
  running = jnp.where(jnp.arange(search.size) == 0, 0.0, _NEVER)
  return _Progress(
    position=jnp.zeros((), jnp.int32),
    tokens=empty,
    log_probabilities=jnp.broadcast_to(running[None], shape),
    places=jnp.zeros_like(empty),
    ended=Hypotheses(
      tokens=empty,
      scores=jnp.full(shape, _NEVER),
      finished=jnp.zeros(shape, bool),
    ),
    done=steps.limits == 0,
    memory=steps.memory,
  )


def _candidates(
  logits: Float[Array, "B M V"], now: _Progress, steps: Steps, search: Beam
) -> _Candidates:
  """The 2M likeliest continuations of each row."""
  best, tokens = blockwise_top_k(logits, 2 * search.size)  # [B, M, 2M]
  gains = best - jax.nn.logsumexp(logits, axis=-1)[..., None]
  sums = now.log_probabilities[..., None] + gains
  flat = sums.reshape(sums.shape[0], -1)
  log_probabilities, at = iterative_top_k(flat, 2 * search.size)
  parents = at // (2 * search.size)
  tokens = jnp.take_along_axis(tokens.reshape(flat.shape), at, axis=1)
  # Under a prefix only the first hypothesis runs, at no cost.
  forced, wanted = steps.forced(now.position)
  first = jnp.where(jnp.arange(2 * search.size) == 0, 0.0, _NEVER)[None]
  log_probabilities = jnp.where(forced[:, None], first, log_probabilities)
  parents = jnp.where(forced[:, None], 0, parents)
  tokens = jnp.where(forced[:, None], wanted[:, None], tokens)
  is_last = now.position + 1 >= steps.limits
  ends = is_last[:, None] | ((tokens == EOS_ID) & ~forced[:, None])
  return _Candidates(parents, tokens, log_probabilities, ends)


def _merge(
  now: _Progress,
  found: _Candidates,
  penalty: Float[Array, "B 1"],
  search: Beam,
) -> Hypotheses:
  """Puts what ends among the first M candidates with what has ended before."""
  first = jax.tree.map(lambda x: x[:, : search.size], found)
  counts = first.ends & ~now.done[:, None]
  scores = jnp.where(counts, first.log_probabilities / penalty, _NEVER)
  tokens = put_at(_pick(now.tokens, first.parents), first.tokens, now.position)
  new = Hypotheses(tokens, scores, first.tokens == EOS_ID)
  both = jax.tree.map(
    lambda a, b: jnp.concatenate([a, b], axis=1), now.ended, new
  )
  scores, best = iterative_top_k(both.scores, search.size)
  return Hypotheses(
    _pick(both.tokens, best), scores, _pick(both.finished, best)
  )


def _is_over(
  running: Float[Array, "B M"],
  ended: Hypotheses,
  length: Int[Array, ""],
  steps: Steps,
  search: Beam,
) -> Bool[Array, "B"]:
  """Whether a row's search stops; see `Stopping`."""
  at_limit = length >= steps.limits
  last = search.n_best if search.stopping is Stopping.SURE else search.size
  worst = ended.scores[:, last - 1]
  if search.stopping is Stopping.FULL:
    return at_limit | (worst > _NEVER)
  reached = length - steps.prefix_lengths
  if search.stopping is Stopping.SURE and search.length_penalty > 0:
    reached = steps.limits - steps.prefix_lengths
  best = running[:, 0] / length_penalty(reached, search)
  return at_limit | ((worst > _NEVER) & (worst >= best))


def _pick(x: Array, indices: Int[Array, "B c"]) -> Array:
  """Takes hypotheses `[B, M, ...]` by index."""
  indices = indices.reshape(*indices.shape, *[1] * (x.ndim - 2))
  return jnp.take_along_axis(x, indices, axis=1)

"""Greedy search and sampling: hypotheses that grow independently."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from taskmoe_jax.decoding.compaction import Loop, run_loop
from taskmoe_jax.decoding.search import Greedy, Sampling
from taskmoe_jax.decoding.top_k import mass_threshold
from taskmoe_jax.decoding.translations import Hypotheses, Steps, put_at
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID


@flax.struct.dataclass
class _Progress:
  position: Int[Array, ""]
  last: Int[Array, "B M"]
  hypotheses: Hypotheses
  memory: PyTree


def greedy_or_sample(steps: Steps, search: Greedy | Sampling) -> Hypotheses:
  """Chooses one token of each hypothesis at every step."""
  shape = (steps.limits.shape[0], steps.num_hypotheses)
  start = _Progress(
    position=jnp.zeros((), jnp.int32),
    last=jnp.full(shape, PAD_ID, jnp.int32),
    hypotheses=Hypotheses(
      tokens=jnp.full((*shape, steps.target_length), PAD_ID, jnp.int32),
      scores=jnp.zeros(shape, jnp.float32),
      finished=jnp.broadcast_to((steps.limits == 0)[:, None], shape),
    ),
    memory=steps.memory,
  )
  loop = Loop(
    is_active=_is_active,
    step=functools.partial(_step, search=search),
    hypotheses=lambda now: now.hypotheses,
  )
  return run_loop(loop, steps, start)


def _is_active(steps: Steps, now: _Progress) -> Bool[Array, "B"]:
  unfinished = jnp.any(~now.hypotheses.finished, axis=1)
  return (now.position < steps.limits) & unfinished


def _step(
  steps: Steps, now: _Progress, *, search: Greedy | Sampling
) -> _Progress:
  # No hypothesis ever takes another's place.
  own = jnp.arange(steps.num_hypotheses)[None, :, None]
  places = jnp.broadcast_to(own, now.hypotheses.tokens.shape)
  logits, memory = steps.step(now.last, now.memory, now.position, places)
  if isinstance(search, Sampling):
    chosen = _drawn(logits, search, _keys_at(steps, now.position))
  else:
    chosen = jnp.argmax(logits, axis=-1).astype(jnp.int32)
  gain = jnp.take_along_axis(logits, chosen[..., None], axis=-1)[..., 0]
  gain = gain - jax.nn.logsumexp(logits, axis=-1)
  forced, wanted = steps.forced(now.position)
  chosen = jnp.where(forced[:, None], wanted[:, None], chosen)
  over = now.hypotheses.finished | (now.position >= steps.limits)[:, None]
  token = jnp.where(over, PAD_ID, chosen)
  hypotheses = Hypotheses(
    tokens=put_at(jnp.asarray(now.hypotheses.tokens), token, now.position),
    scores=now.hypotheses.scores + jnp.where(over | forced[:, None], 0.0, gain),
    finished=now.hypotheses.finished | (token == EOS_ID),
  )
  return _Progress(now.position + 1, token, hypotheses, memory)


def _keys_at(steps: Steps, position: Int[Array, ""]) -> Key[Array, "B M"]:
  """Keys of every hypothesis at one position."""
  keys = jax.random.wrap_key_data(steps.keys, impl="threefry2x32")

  def of(key, hypothesis):
    return jax.random.fold_in(jax.random.fold_in(key, hypothesis), position)

  numbers = jnp.arange(steps.num_hypotheses)
  return jax.vmap(lambda key: jax.vmap(lambda m: of(key, m))(numbers))(keys)


def _drawn(
  logits: Float[Array, "B M V"], search: Sampling, keys: Key[Array, "B M"]
) -> Int[Array, "B M"]:
  """Draws a token, with temperature, then `top_k`, then `top_p`.

  In this order Hugging Face cuts as well.
  """
  logits = logits / search.temperature
  # What may be drawn; of equal values all or none.
  weights = jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))
  if search.top_k is not None:
    least = mass_threshold(weights, jnp.ones_like(weights), float(search.top_k))
    weights = jnp.where(weights >= least[..., None], weights, 0.0)
  if search.top_p is not None:
    mass = search.top_p * jnp.sum(weights, axis=-1)
    least = mass_threshold(weights, weights, mass)
    weights = jnp.where(weights >= least[..., None], weights, 0.0)

  def draw(key, logits):
    return jax.random.categorical(key, logits)

  allowed = jnp.where(weights > 0, logits, -jnp.inf)
  return jax.vmap(jax.vmap(draw))(keys, allowed).astype(jnp.int32)

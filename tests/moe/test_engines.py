"""Engines against a plain loop, a dense reference, and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.capacity import Capacity
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.moe.routing import Routing

B, L, D, F, E = 6, 5, 3, 4, 7
NO_LIMIT = B * L


def routing(experts, gates):
  return Routing(jnp.asarray(experts), jnp.asarray(gates))


def make_weights(activation, seed=0):
  rng = np.random.default_rng(seed)
  shapes = [(E, D, F)] * activation.num_inputs + [(E, F, D)]
  *wi, wo = [
    jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes
  ]
  return FeedForwardWeights(tuple(wi), wo)


def make_inputs(num_selected, by_row, seed=1):
  """Tokens, experts, gates, and which tokens are no padding.

  With rows in threes that share their experts, as those of one task do.
  """
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(B, L, D)).astype(np.float32)
  shape = (B // 3,) if by_row else (B, L)
  scores = rng.random((*shape, E))
  experts = np.argsort(-scores, axis=-1)[..., :num_selected].astype(np.int32)
  gates = rng.random((*shape, num_selected)).astype(np.float32)
  if by_row:
    experts, gates = np.repeat(experts, 3, 0), np.repeat(gates, 3, 0)
  valid = rng.random((B, L)) < 0.7
  return x, experts, gates, valid


def call(engine, *operands, activation=Activation.RELU):
  """Compiled, which is faster than to run it once as it is."""
  return jax.jit(engine, static_argnums=4)(*operands, activation)


def numpy_feed_forward(weights, expert, x, activation):
  hidden = [x @ np.asarray(wi[expert], np.float64) for wi in weights.wi]
  if activation is Activation.RELU:
    hidden = np.maximum(hidden[0], 0)
  else:
    a = hidden[0]
    inner = np.sqrt(2 / np.pi) * (a + 0.044715 * a**3)
    hidden = 0.5 * a * (1 + np.tanh(inner)) * hidden[1]
  return hidden @ np.asarray(weights.wo[expert], np.float64)


def keep(experts, valid, rows, capacity):
  """Which choices `[B, L, K]` find a place: a loop, by the definition."""
  kept = np.zeros(experts.shape, bool)
  for first in range(0, B, rows):
    taken = np.zeros(E, int)
    for k in range(experts.shape[-1]):
      for b in range(first, first + rows):
        for t in range(L):
          if valid[b, t] and taken[experts[b, t, k]] < capacity:
            taken[experts[b, t, k]] += 1
            kept[b, t, k] = True
  return kept


def of_tokens(values):
  """Repeats what is said of rows for each of their tokens."""
  if values.ndim == 3:
    return values
  return np.repeat(values[:, None], L, axis=1)


def loop(x, experts, gates, kept, weights, activation):
  y = np.zeros(x.shape)
  for b, t, k in np.argwhere(kept):
    out = numpy_feed_forward(weights, experts[b, t, k], x[b, t], activation)
    y[b, t] += gates[b, t, k] * out
  return y


def dense(x, gates, weights, experts, kept, activation):
  """Every expert on every token, then a weighted sum: for its gradient."""
  hidden = activation(*(jnp.einsum("bld,edf->blef", x, w) for w in weights.wi))
  outs = jnp.einsum("blef,efd->bled", hidden, weights.wo)
  chosen = jax.nn.one_hot(experts, E) * kept[..., None]
  if gates.ndim == 2:
    gates = jnp.tile(gates[:, None], (1, L, 1))
  return jnp.einsum("bled,blke,blk->bld", outs, chosen, gates)


CASES = pytest.mark.parametrize(
  ("engine", "by_row", "rows", "capacity"),
  [
    pytest.param(Capacity(None, 99), False, 6, NO_LIMIT, id="token"),
    pytest.param(Capacity(None, 99), True, 6, NO_LIMIT, id="row"),
    # Groups of two rows, ten tokens: ceil(K 10 / 7 · 0.9) places.
    pytest.param(Capacity(0.9, 14), False, 2, 0.9, id="token, full"),
    pytest.param(Capacity(0.9, 14), True, 2, 0.9, id="row, full"),
    pytest.param(ExpertFetch(1), True, 6, NO_LIMIT, id="fetch"),
    pytest.param(ExpertFetch(3), True, 6, NO_LIMIT, id="fetch, threes"),
  ],
)


@pytest.mark.parametrize(
  ("num_selected", "activation"),
  [
    (1, Activation.RELU),
    (2, Activation.GATED_GELU),
    (3, Activation.RELU),
  ],
)
@CASES
def test_engines(engine, by_row, rows, capacity, num_selected, activation):
  x, experts, gates, valid = make_inputs(num_selected, by_row)
  weights = make_weights(activation)
  if capacity != NO_LIMIT:
    capacity = {1: 2, 2: 3, 3: 4}[num_selected]
  kept = keep(of_tokens(experts), valid, rows, capacity)
  wanted = np.broadcast_to(valid[..., None], kept.shape)
  assert (kept.sum() < wanted.sum()) == (capacity != NO_LIMIT)
  # A random covector, so that no two gradients are the same by chance.
  covector = np.random.default_rng(2).normal(size=x.shape) * valid[..., None]
  covector = jnp.asarray(covector, jnp.float32)

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)
  def run(x, gates, weights):
    done = engine(
      x, routing(experts, gates), jnp.asarray(valid), weights, activation
    )
    return jnp.vdot(covector, done.y), done

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def reference(x, gates, weights):
    y = dense(x, gates, weights, of_tokens(experts), kept, activation)
    return jnp.vdot(covector, y)

  operands = jnp.asarray(x), jnp.asarray(gates), weights
  gradients, done = run(*operands)
  expected = loop(
    x, of_tokens(experts), of_tokens(gates), kept, weights, activation
  )
  # Padding may be computed along; nobody reads it. Tolerance: sums of F = 4
  # float32 products of order 10.
  found = np.where(valid[..., None], done.y, 0)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  if done.kept is None:
    assert kept.sum() == wanted.sum()
  else:
    np.testing.assert_array_equal(done.kept & wanted, kept)

  found, expected = list(gradients), list(reference(*operands))
  if by_row:
    # Rows in threes have the same gates, and an engine may read any of them.
    found[1], expected[1] = (
      g.reshape(2, 3, num_selected).sum(1) for g in (found[1], expected[1])
    )
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    assert jnp.abs(b).max() > 0.1
    # Weights' gradients sum over up to 30 tokens, values of order 10.
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", Activation)
def test_engines_agree(activation):
  x, experts, gates, _ = make_inputs(num_selected=2, by_row=True)
  x, valid = jnp.asarray(x), jnp.ones((B, L), bool)
  route, weights = routing(experts, gates), make_weights(activation)
  engines = [ExpertFetch(3), ExpertFetch(1), Capacity(None, 1)]
  operands = x, route, valid, weights
  reference = call(Capacity(None, 99), *operands, activation=activation)
  for engine in engines:
    done = call(engine, *operands, activation=activation)
    assert done.kept is None or done.kept.all()
    np.testing.assert_allclose(done.y, reference.y, rtol=1e-5, atol=1e-5)

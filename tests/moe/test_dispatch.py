"""Engines against a plain loop, a dense reference, and each other."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.moe.dispatch import (
  Capacity,
  ExpertFetch,
  assign_slots,
  choose_engine,
)
from taskmoe_jax.moe.routing import Routing

B, L, D, F, E = 6, 5, 3, 4, 7
NO_LIMIT = B * L


def routing(experts, gates):
  zero, load = jnp.zeros(()), jnp.zeros(E)
  experts, gates = jnp.asarray(experts), jnp.asarray(gates)
  return Routing(experts, gates, zero, zero, load, zero)


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
    y, dropped = engine(
      x, routing(experts, gates), jnp.asarray(valid), weights, activation
    )
    return jnp.vdot(covector, y), (y, dropped)

  @jax.jit
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def reference(x, gates, weights):
    y = dense(x, gates, weights, of_tokens(experts), kept, activation)
    return jnp.vdot(covector, y)

  operands = jnp.asarray(x), jnp.asarray(gates), weights
  gradients, (y, dropped) = run(*operands)
  expected = loop(
    x, of_tokens(experts), of_tokens(gates), kept, weights, activation
  )
  # Padding may be computed along; nobody reads it. Tolerance: sums of F = 4
  # float32 products of order 10.
  found = np.where(valid[..., None], y, 0)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
  share = 1 - kept.sum() / wanted.sum()
  np.testing.assert_allclose(dropped, share, atol=1e-6)

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
  reference, _ = call(Capacity(None, 99), *operands, activation=activation)
  for engine in engines:
    y, dropped = call(engine, *operands, activation=activation)
    assert dropped == 0
    np.testing.assert_allclose(y, reference, rtol=1e-5, atol=1e-5)


def test_first_choices_before_second_and_earlier_tokens_before_later():
  """The example of the docstring, and one in which padding stands between.

  E = 2, C = 2, two groups; slots 0 1 are of expert 0, 2 3 of expert 1, and 4 is
  none. In the second group expert 2 = E marks padding.
  """
  experts = jnp.array([[[0, 0, 0], [1, 1, 0]], [[1, 2, 1], [0, 2, 0]]])
  slots = assign_slots(experts, num_experts=2, capacity=2)
  np.testing.assert_array_equal(
    slots, [[[0, 1, 4], [2, 3, 4]], [[2, 4, 3], [0, 4, 1]]]
  )


def test_second_choices_queue_behind_all_first_ones():
  """E = 3, C = 1: token 0's second choice, 1, was token 2's first."""
  experts = jnp.array([[[0, 0, 1], [1, 2, 2]]])
  slots = assign_slots(experts, num_experts=3, capacity=1)
  np.testing.assert_array_equal(slots, [[[0, 3, 1], [3, 2, 3]]])


def identity_experts():
  """Expert e multiplies positive tokens by 10^e."""
  wi = jnp.tile(jnp.eye(2)[None], (3, 1, 1))
  return FeedForwardWeights(
    (wi,), wi * jnp.array([1.0, 10, 100])[:, None, None]
  )


def run_by_hand(engine, x, experts, gates, valid):
  zero = jnp.zeros(())
  route = Routing(experts, gates, zero, zero, jnp.zeros(3), zero)
  tokens = jnp.tile(jnp.asarray(x, jnp.float32)[..., None], (1, 1, 2))
  y, dropped = call(
    engine, tokens, route, jnp.asarray(valid, bool), identity_experts()
  )
  np.testing.assert_array_equal(y[..., 0], y[..., 1])
  return y[..., 0], dropped


def test_overflow_by_hand():
  """One group of four tokens, ceil(1 · 4 / 3 · 1) = 2 places an expert.

  Expert 0 takes tokens 1 and 2 and drops token 4; expert 2 takes token 3.
  """
  y, dropped = run_by_hand(
    Capacity(1.0, 4),
    [[1, 2], [3, 4]],
    jnp.array([[[0], [0]], [[2], [0]]]),
    jnp.array([[[0.5], [0.5]], [[0.25], [0.5]]]),
    jnp.ones((2, 2)),
  )
  np.testing.assert_allclose(y, [[0.5, 1], [75, 0]], rtol=1e-6)
  assert dropped == pytest.approx(0.25)


def test_padding_takes_no_capacity():
  """The same with padding instead of token 1: now token 4 has a place."""
  y, dropped = run_by_hand(
    Capacity(1.0, 4),
    [[1, 2], [3, 4]],
    jnp.array([[[0], [0]], [[2], [0]]]),
    jnp.array([[[0.5], [0.5]], [[0.25], [0.5]]]),
    [[0, 1], [1, 1]],
  )
  np.testing.assert_allclose(y, [[0, 1], [75, 2]], rtol=1e-6)
  assert dropped == 0


@pytest.mark.parametrize(
  ("group_size", "rows"), [(1, 1), (9, 1), (10, 2), (29, 3)]
)
def test_groups_are_whole_rows_and_divide_the_batch(group_size, rows):
  """All 30 tokens want expert 0, which has ceil(tokens / 7) places a group."""
  experts = jnp.zeros((B, L, 1), jnp.int32)
  _, dropped = call(
    Capacity(1.0, group_size),
    jnp.ones((B, L, D)),
    routing(experts, jnp.ones((B, L, 1))),
    jnp.ones((B, L), bool),
    make_weights(Activation.RELU),
  )
  places = -(-rows * L // E)
  assert dropped == pytest.approx(1 - places / (rows * L))


def test_a_batch_of_padding_drops_nothing():
  x, experts, gates, _ = make_inputs(2, by_row=False)
  y, dropped = call(
    Capacity(1.0, 99),
    jnp.asarray(x),
    routing(experts, gates),
    jnp.zeros((B, L), bool),
    make_weights(Activation.RELU),
  )
  assert dropped == 0
  assert not y.any()


def test_expert_fetch_needs_a_decision_a_row():
  x, experts, gates, valid = make_inputs(2, by_row=False)
  with pytest.raises(TaskMoeError) as error:
    ExpertFetch(1)(
      jnp.asarray(x),
      routing(experts, gates),
      jnp.asarray(valid),
      make_weights(Activation.RELU),
      Activation.RELU,
    )
  assert str(error.value) == (
    "dispatch 'expert_fetch' needs one routing decision a row, but packed rows"
    " routed by sentence have several. Set MoeConfig.dispatch to 'capacity' or"
    " 'auto', or PACK to False."
  )


@pytest.mark.parametrize(
  ("granularity", "dispatch", "train", "engine"),
  [
    ("token", "auto", True, Capacity(1.5, 64)),
    ("token", "auto", False, Capacity(None, 64)),
    ("token", "capacity", True, Capacity(1.5, 64)),
    ("sentence", "auto", True, Capacity(1.5, 64)),
    ("sentence", "expert_fetch", True, ExpertFetch(1)),
    ("task", "auto", True, ExpertFetch(4)),
    ("task", "auto", False, ExpertFetch(4)),
    ("task", "expert_fetch", True, ExpertFetch(4)),
    ("task", "capacity", True, Capacity(1.5, 64)),
    ("task", "capacity", False, Capacity(None, 64)),
    ("static", "auto", True, ExpertFetch(4)),
    ("static", "capacity", True, Capacity(1.5, 64)),
  ],
)
def test_choose_engine(granularity, dispatch, train, engine):
  config = MoeConfig(
    granularity=granularity,
    num_experts=5,
    num_selected=2,
    expert_mlp_dim=7,
    dispatch=dispatch,
    capacity_factor=1.5,
    group_size=64,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  chosen = choose_engine(config, train=train, rows_per_task_group=4)
  assert chosen == engine

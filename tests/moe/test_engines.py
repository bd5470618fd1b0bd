"""Every engine against plain loops, on one device and on meshes of eight."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax import axes
from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.capacity import Capacity
from taskmoe_jax.moe.dropless import Dropless, sort_by_expert
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning, activate
from tests.moe import oracle

pytestmark = pytest.mark.slow

B, L, D, F, E = 16, 5, 32, 24, 8
# Rows of one task stand in fours.
ROWS = 4
MESHES = {
  "one device": None,
  "8,1,1": (8, 1, 1),
  "1,8,1": (1, 8, 1),
  "2,2,2": (2, 2, 2),
  "4,2,1": (4, 2, 1),
  # Two slices of 1,4,1.
  "2,1,4,1": (2, 1, 4, 1),
}
UNOPTIMIZED = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


def routing(experts, gates, priority=None):
  return Routing(jnp.asarray(experts), jnp.asarray(gates), priority=priority)


def make_weights(activation, seed=0):
  rng = np.random.default_rng(seed)
  shapes = [(E, D, F)] * activation.num_inputs + [(E, F, D)]
  *wi, wo = [
    jnp.asarray(rng.normal(size=shape) / shape[1] ** 0.5, jnp.float32)
    for shape in shapes
  ]
  return FeedForwardWeights(tuple(wi), wo)


def make_inputs(num_selected, decided_for, seed=1):
  """Tokens, experts, gates, and which tokens are no padding.

  Decisions are made for `token`s, for `sentence`s packed into rows, or for
  `row`s, of which four after one another agree, as those of a task do.
  """
  rng = np.random.default_rng(seed)
  x = rng.normal(size=(B, L, D)).astype(np.float32)
  shape = (B // ROWS,) if decided_for == "row" else (B, L)
  scores = rng.random((*shape, E))
  experts = np.argsort(-scores, axis=-1)[..., :num_selected].astype(np.int32)
  gates = rng.random((*shape, num_selected)).astype(np.float32)
  lengths = rng.integers(0, L + 1, B)
  lengths[0] = 0  # a row of padding
  valid = np.arange(L) < lengths[:, None]
  if decided_for == "row":
    experts, gates = np.repeat(experts, ROWS, 0), np.repeat(gates, ROWS, 0)
  if decided_for == "sentence":
    # The first three tokens of a row, and the others.
    first = np.array([0, 0, 0, 3, 3])
    experts, gates = experts[:, first], gates[:, first]
  return x, experts, gates, valid


def of_tokens(values):
  """Repeats what is said of rows for each of their tokens."""
  if values.ndim == 3:
    return values
  return np.repeat(values[:, None], L, axis=1)


def partitioning(mesh, fsdp=False):
  *slices, data, expert, model = MESHES[mesh] if isinstance(mesh, str) else mesh
  shape = MeshShape(
    slices=slices[0] if slices else 1, data=data, expert=expert, model=model
  )
  return Partitioning(make_mesh(shape), fsdp)


def lay_out(parts, engine, weights, *rows):
  """Puts weights where a model would keep them, and rows on their devices."""
  expert, embed, mlp = axes.EXPERT, axes.EMBED, axes.MLP
  if isinstance(engine, ExpertFetch):
    expert, embed, mlp = axes.FETCHED_EXPERT, None, axes.FETCHED_MLP
  wi = parts.sharding(expert, embed, mlp)
  wo = parts.sharding(expert, mlp, embed)
  weights = FeedForwardWeights(
    jax.device_put(weights.wi, (wi,) * len(weights.wi)),
    jax.device_put(weights.wo, wo),
  )
  of_rows = parts.sharding(axes.ACT_BATCH)
  return weights, *(jax.device_put(row, of_rows) for row in rows)


def loss(engine, activation, x, gates, weights, experts, valid, covector):
  done = engine(x, routing(experts, gates), valid, weights, activation)
  return jnp.vdot(covector, done.y), done


def run(engine, mesh, activation, x, experts, gates, valid, covector, weights):
  """Output, and gradients of tokens, gates and weights."""
  grad = functools.partial(jax.grad, argnums=(0, 1, 2), has_aux=True)(
    functools.partial(loss, engine, activation)
  )
  grad = jax.jit(grad, compiler_options=UNOPTIMIZED)
  if MESHES[mesh] is None:
    return grad(x, gates, weights, experts, valid, covector)
  parts = partitioning(mesh)
  weights, x, gates, experts, valid, covector = lay_out(
    parts, engine, weights, x, gates, experts, valid, covector
  )
  with activate(parts):
    gradients, done = grad(x, gates, weights, experts, valid, covector)
  # A gradient lies where its weights do.
  for gradient, weight in zip(
    jax.tree.leaves(gradients[2]), jax.tree.leaves(weights), strict=True
  ):
    assert gradient.sharding.shard_shape(gradient.shape) == (
      weight.sharding.shard_shape(weight.shape)
    )
  return gradients, done


ENGINES = {
  "capacity": lambda decided_for: Capacity(None, 2 * L),
  "capacity, full": lambda decided_for: Capacity(0.6, 2 * L),
  "dropless": lambda decided_for: Dropless(None),
  "expert_fetch": lambda decided_for: ExpertFetch(ROWS),
  "expert_fetch, refetch": lambda decided_for: ExpertFetch(2, refetch=True),
}


def cases():
  """All engines, decisions and meshes; K is 1, 2, 3 in turn on the meshes."""
  turn = 0
  for name in ENGINES:
    for decided_for in ("token", "sentence", "row"):
      if name.startswith("expert_fetch") and decided_for != "row":
        continue
      for mesh in MESHES:
        turn += 1
        for k in (1, 2, 3) if mesh == "one device" else (1 + turn % 3,):
          yield pytest.param(
            name, decided_for, mesh, k, id=f"{name}-{decided_for}-{mesh}-{k}"
          )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "decided_for", "mesh", "k"), list(cases()))
def test_outputs_and_gradients(name, decided_for, mesh, k):
  engine = ENGINES[name](decided_for)
  activation = Activation.GATED_GELU if k == 2 else Activation.RELU
  x, experts, gates, valid = make_inputs(k, decided_for)
  weights = make_weights(activation)
  capacity = B * L
  if name == "capacity, full":
    capacity = math.ceil(k * 2 * L / E * 0.6)
  kept = oracle.places(of_tokens(experts), valid, 2, capacity)
  wanted = np.broadcast_to(valid[..., None], kept.shape)
  assert (kept.sum() < wanted.sum()) == (name == "capacity, full")
  # A random covector, so that no two gradients are the same by chance.
  covector = np.random.default_rng(2).normal(size=x.shape) * valid[..., None]
  covector = covector.astype(np.float32)
  gradients, done = run(
    engine, mesh, activation, x, experts, gates, valid, covector, weights
  )
  expected = oracle.mixture(
    x, of_tokens(experts), of_tokens(gates), kept, weights, activation, covector
  )
  # Padding may be computed along; nobody reads it. Tolerances: float32 sums of
  # some dozen products of order 1.
  found = np.where(valid[..., None], done.y, 0)
  np.testing.assert_allclose(found, expected.y, rtol=1e-5, atol=1e-5)
  if done.kept is None:
    assert kept.sum() == wanted.sum()
  else:
    np.testing.assert_array_equal(done.kept & wanted, kept)
  dx, dgates, dweights = gradients
  of_gates = expected.gates
  if decided_for == "row":
    # The rows of a group share their gates; an engine may read any of them.
    of_gates = of_gates.sum(1).reshape(-1, ROWS, k).sum(1)
    dgates = np.asarray(dgates).reshape(-1, ROWS, k).sum(1)
  for a, b in [
    (dx, expected.x),
    (dgates, of_gates),
    (dweights.wo, expected.wo),
    *zip(dweights.wi, expected.wi, strict=True),
  ]:
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


def test_choices_in_the_order_of_their_experts():
  """E = 3, and 3 itself is no choice: its place is past the end."""
  places, counts = sort_by_expert(jnp.array([2, 0, 3, 2, 0]), 3)
  np.testing.assert_array_equal(places, [2, 0, 5, 3, 1])
  np.testing.assert_array_equal(counts, [2, 0, 2])


@pytest.mark.parametrize(
  ("engine", "rounds", "pool"),
  [
    (Dropless(None), [0, 0, 0, 0, 0, 0, 0], 8),
    (Dropless(1.0), [0, 0, 0, 0, 1, 1, 1], 4),
    (Dropless(1.5), [0, 0, 0, 0, 0, 0, 1], 6),
    (Dropless(0.5), [0, 0, 1, 1, 2, 2, 3], 2),
    (Dropless(0.5, spare_places=1), [0, 0, 0, 1, 1, 1, 2], 3),
    (Dropless(1.5, spare_places=9), [0, 0, 0, 0, 0, 0, 0], 8),
  ],
)
def test_the_earlier_choices_find_a_place_whichever_expert_they_want(
  engine, rounds, pool
):
  """Two devices of two experts: all eight choices, but one that is none, are
  for the first device, and its second expert is wanted first. What is in a
  round after the first is dropped, or waits for it."""
  experts = jnp.array([1, 0, 1, 4, 0, 1, 0, 1])
  found, places = engine._rounds(experts, 2, 4)
  assert places == pool
  np.testing.assert_array_equal(np.delete(found, 3), rounds)

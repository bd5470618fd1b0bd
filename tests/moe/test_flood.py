"""Half of all rows are of one task, as with English-centric text.

32 tasks, target routing, 32 experts, top-2. By the table of experts here task 0
has experts 0 and 1, and no other task has them: 64 of 128 rows want the same
two experts of 32.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.capacity import Capacity
from taskmoe_jax.moe.dropless import Dropless
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.routing import Routing
from taskmoe_jax.moe.statistics import measure
from taskmoe_jax.partitioning.rules import activate
from tests.moe import oracle
from tests.moe.test_engines import UNOPTIMIZED, lay_out, partitioning

pytestmark = pytest.mark.slow

B, L, D, F, E, K, R = 128, 3, 10, 16, 32, 2, 32
# Rows of one task stand in fours.
ROWS = 4


@pytest.fixture(scope="module")
def flood():
  """Task ids, experts and gates of rows, tokens, weights, and the answer."""
  rng = np.random.default_rng(0)
  groups = B // ROWS
  others = rng.integers(1, R, groups)
  tasks = np.where(np.arange(groups) % 2 == 0, 0, others).repeat(ROWS)
  of_task = np.stack([rng.choice(np.arange(2, E), K, False) for _ in range(R)])
  of_task[0] = 0, 1
  gates_of_task = rng.random((R, K)).astype(np.float32)
  experts, gates = of_task[tasks], gates_of_task[tasks]
  x = rng.normal(size=(B, L, D)).astype(np.float32)
  weights = FeedForwardWeights(
    (jnp.asarray(rng.normal(size=(E, D, F)) / 3, jnp.float32),),
    jnp.asarray(rng.normal(size=(E, F, D)) / 4, jnp.float32),
  )
  of_tokens = [np.repeat(v[:, None], L, axis=1) for v in (experts, gates)]
  covector = rng.normal(size=x.shape).astype(np.float32)
  kept = np.ones((B, L, K), bool)
  expected = oracle.mixture(
    x, *of_tokens, kept, weights, Activation.RELU, covector
  )
  assert (tasks == 0).mean() == 0.5
  return tasks, experts, gates, x, weights, covector, expected


def run(engine, flood, mesh):
  """Output, gradients of tokens and weights, and the share of drops by task."""
  tasks, experts, gates, x, weights, covector, _ = flood
  inputs = RouterInputs(jnp.asarray(tasks), jnp.ones((B, L), jnp.int32))

  def loss(x, weights, experts, gates, covector):
    routing = Routing(experts, gates)
    valid = jnp.ones((B, L), bool)
    done = engine(x, routing, valid, weights, Activation.RELU)
    statistics = measure(routing, done.kept, inputs, R, E)
    return jnp.vdot(covector, done.y), (done.y, statistics)

  grad = jax.jit(
    jax.grad(loss, argnums=(0, 1), has_aux=True), compiler_options=UNOPTIMIZED
  )
  rows = x, experts.astype(np.int32), gates, covector
  if mesh is None:
    return grad(jnp.asarray(x), weights, *map(jnp.asarray, rows[1:]))
  parts = partitioning(mesh)
  weights, x, *rest = lay_out(parts, engine, weights, *rows)
  with activate(parts):
    return grad(x, weights, *rest)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [None, (1, 8, 1), (2, 2, 2)], ids=str)
@pytest.mark.parametrize(
  "engine",
  [Dropless(None), ExpertFetch(ROWS)],
  ids=["dropless", "expert_fetch"],
)
def test_nothing_is_dropped(flood, engine, mesh):
  expected = flood[-1]
  (dx, dweights), (y, statistics) = run(engine, flood, mesh)
  assert statistics.dropped == 0
  # float32 against float64: sums of up to 192 products of order 1.
  for a, b in [
    (y, expected.y),
    (dx, expected.x),
    (dweights.wi[0], expected.wi[0]),
    (dweights.wo, expected.wo),
  ]:
    assert np.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
  ("factor", "spare", "mesh"), [(0.5, 0, (1, 8, 1)), (1.25, 3, (2, 2, 2))]
)
def test_nothing_is_dropped_in_rounds(flood, factor, spare, mesh):
  """(1, 8, 1): 48 choices of a device for 6 places of another, eight rounds;
  (2, 2, 2): 192 choices of four times as many rows, 123 places, two."""
  _, experts, gates, x, weights, _, expected = flood
  engine = Dropless(factor, spare_places=spare, in_rounds=True)
  parts = partitioning(mesh)
  weights, x, experts, gates = lay_out(
    parts, engine, weights, x, experts.astype(np.int32), gates
  )

  @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
  def forward(x, weights, experts, gates):
    valid = jnp.ones((B, L), bool)
    return engine(x, Routing(experts, gates), valid, weights, Activation.RELU)

  with activate(parts):
    done = forward(x, weights, experts, gates)
  assert done.kept is None
  # As above.
  np.testing.assert_allclose(done.y, expected.y, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("mesh", [None, (1, 8, 1)], ids=str)
def test_capacity_drops_and_reports_it(flood, mesh):
  """Groups of eight rows: ceil(1.25 · 2 · 24 / 32) = 2 places an expert.

  Four of the eight rows, twelve tokens, are of task 0, and two of these are
  served by each of its experts.
  """
  _, (_, statistics) = run(Capacity(1.25, 8 * L), flood, mesh)
  np.testing.assert_allclose(statistics.task_dropped[0], 10 / 12, rtol=1e-6)
  assert statistics.dropped > 0.5


@pytest.mark.slow
def test_a_pool_drops_and_reports_it(flood):
  """(1, 8, 1), 16 rows a device, half of them of task 0, whose two experts lie
  on one device: 48 choices for ceil(1.25 · 96 / 8) = 15 places."""
  _, (_, statistics) = run(Dropless(1.25), flood, (1, 8, 1))
  assert statistics.task_dropped[0] >= 1 - 15 / 48
  assert statistics.dropped >= (1 - 15 / 48) / 2


def test_by_default_choices_of_one_device_need_no_pool(flood):
  _, (_, statistics) = run(Dropless(1.25), flood, None)
  assert statistics.dropped == 0

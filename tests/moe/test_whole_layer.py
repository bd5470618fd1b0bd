"""Router and engine together, every granularity on every engine, by loops.

Rows stand in twos of one task. On a mesh as on one device: there the router's
own arithmetic is left to XLA.
"""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.moe.layer import MoeFeedForward
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.partitioning.rules import activate
from tests.moe import oracle, routing_oracle
from tests.moe.test_engines import UNOPTIMIZED, partitioning

pytestmark = pytest.mark.slow

B, L, D, F, E, M, R = 16, 6, 10, 12, 8, 5, 3
PACKED = np.array(
  [
    [1, 1, 2, 2, 2, 3],
    [1, 1, 1, 1, 1, 1],
    [1, 2, 2, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
  ]
).repeat(B // 4, axis=0)


def draw(packed, k):
  rng = np.random.default_rng(k)
  return types.SimpleNamespace(
    x=rng.normal(size=(B, L, D)).astype(np.float32),
    segments=PACKED if packed else (PACKED > 0).astype(np.int32),
    task_ids=rng.integers(0, R, B // 2).repeat(2),
    token_ids=rng.integers(0, 50, (B, L)),
    task_vectors=rng.normal(size=(R, D)).astype(np.float32),
  )


def cases():
  """Every pair, K and packing in turn, on one device and on a mesh."""
  turn = 0
  for granularity in GRANULARITIES:
    for dispatch in ("capacity", "dropless", "expert_fetch"):
      if dispatch == "expert_fetch" and GRANULARITIES[granularity].by_token:
        continue
      for mesh in (None, (2, 2, 2)):
        turn += 1
        packed = turn % 2 == 0
        if dispatch == "expert_fetch" and granularity == "sentence":
          packed = False
        k = 1 + turn % 3
        yield pytest.param(
          granularity,
          dispatch,
          mesh,
          packed,
          k,
          id=f"{granularity}-{dispatch}-{'mesh' if mesh else 'device'}-"
          f"{'packed' if packed else 'rows'}-{k}",
        )


def by_loops(params, data, granularity, k, valid, covector):
  """What the router's loops decide, and what the experts' make of it."""
  router, no_table = params.get("router", {}), np.zeros((D, E))
  kept = np.ones((B, L, k), bool)
  decided = routing_oracle.route(
    granularity,
    np.asarray(router.get("table", no_table)),
    np.asarray(router.get("task_gate", no_table)),
    data,
    kept,
    (E, k, M),
    R,
  )
  experts, gates = np.zeros((B, L, k), int), np.zeros((B, L, k))
  for place, chosen in decided.experts.items():
    experts[place], gates[place] = chosen, decided.gates[place]
  weights = FeedForwardWeights(
    (params["experts"]["wi"],), params["experts"]["wo"]
  )
  return decided, oracle.mixture(
    data.x,
    experts,
    gates,
    kept & valid[..., None],
    weights,
    Activation.RELU,
    covector,
  )


def draw_params(layer, x, inputs):
  shapes = jax.eval_shape(
    lambda: layer.init(jax.random.key(0), x, inputs, train=True)
  )
  return jax.tree.map(
    lambda leaf: jnp.asarray(
      np.random.default_rng(leaf.size).normal(size=leaf.shape) / 2, jnp.float32
    ),
    nn.unbox(shapes)["params"],
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("granularity", "dispatch", "mesh", "packed", "k"), list(cases())
)
def test_layers(moe_config, granularity, dispatch, mesh, packed, k):
  config = moe_config(
    granularity=granularity,
    dispatch=dispatch,
    num_experts=E,
    num_selected=k,
    num_candidates=M,
    word_table="dealt",
    expert_mlp_dim=F,
  )
  layer = MoeFeedForward(config, R, Activation.RELU)
  data = draw(packed, k)
  inputs = RouterInputs(
    jnp.asarray(data.task_ids),
    jnp.asarray(data.segments),
    token_ids=jnp.asarray(data.token_ids),
    task_vectors=jnp.asarray(data.task_vectors)[data.task_ids],
    packed=packed,
    rows_per_task_group=2,
  )
  x = jnp.asarray(data.x)
  params = draw_params(layer, x, inputs)
  valid = data.segments > 0
  covector = np.random.default_rng(9).normal(size=x.shape) * valid[..., None]

  def loss(params, x):
    y, statistics = layer.apply({"params": params}, x, inputs, train=True)
    return jnp.vdot(jnp.asarray(covector, jnp.float32), y), (y, statistics)

  run = jax.jit(jax.grad(loss, has_aux=True), compiler_options=UNOPTIMIZED)
  if mesh is None:
    gradients, (y, statistics) = run(params, x)
  else:
    with activate(partitioning(mesh)):
      gradients, (y, statistics) = run(params, x)

  decided, expected = by_loops(params, data, granularity, k, valid, covector)
  # float32 against float64: sums of some dozen products of order 1.
  found = np.where(valid[..., None], y, 0)
  np.testing.assert_allclose(found, expected.y, rtol=1e-5, atol=1e-4)
  of_experts = gradients["experts"]
  np.testing.assert_allclose(
    of_experts["wi"], expected.wi[0], rtol=1e-5, atol=1e-4
  )
  np.testing.assert_allclose(
    of_experts["wo"], expected.wo, rtol=1e-5, atol=1e-4
  )
  np.testing.assert_allclose(statistics.load, decided.load, atol=1e-6)
  assert statistics.dropped == 0

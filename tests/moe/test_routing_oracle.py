"""Routers of every granularity against plain loops, and their gradients."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.routing import Router
from taskmoe_jax.moe.statistics import measure
from tests.moe import routing_oracle

pytestmark = pytest.mark.slow

B, L, D, E, M, R = 5, 6, 4, 7, 5, 4
# Sentences of every length, padding at the end, and a row of nothing else.
PACKED = np.array(
  [
    [1, 1, 2, 2, 2, 3],
    [1, 1, 1, 1, 1, 1],
    [1, 2, 2, 0, 0, 0],
    [0, 0, 0, 0, 0, 0],
    [1, 1, 2, 2, 0, 0],
  ]
)
# Task 0 has no row, and task 3 only one of padding.
TASK_IDS = np.array([2, 1, 2, 3, 1])
# Optimising takes longer than it saves.
UNOPTIMIZED = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}


def draw(packed, seed):
  """Tokens, tasks, parameters and kept choices for one case."""
  rng = np.random.default_rng(seed)
  data = types.SimpleNamespace(
    x=rng.normal(size=(B, L, D)).astype(np.float32),
    segments=PACKED if packed else (PACKED > 0).astype(int),
    task_ids=TASK_IDS,
    token_ids=rng.integers(0, 50, (B, L)),
    task_vectors=rng.normal(size=(R, D)).astype(np.float32),
  )
  tables = {
    name: rng.normal(size=(D, E)).astype(np.float32)
    for name in ("table", "task_gate")
  }
  return data, tables, rng.random((B, L, 3)) < 0.8


def router_inputs(data, packed):
  return RouterInputs(
    jnp.asarray(data.task_ids),
    jnp.asarray(data.segments),
    token_ids=jnp.asarray(data.token_ids),
    task_vectors=jnp.asarray(data.task_vectors)[data.task_ids],
    packed=packed,
  )


def parameters(granularity, tables):
  names = ["table"] if GRANULARITIES[granularity].has_gate else []
  names += ["task_gate"] * (granularity == "task_then_token")
  return {name: jnp.asarray(tables[name]) for name in names}


def of_tokens(values):
  """Repeats what is said of rows for each of their tokens."""
  values = np.asarray(values)
  if values.ndim == 2:
    values = np.repeat(values[:, None], L, axis=1)
  return values


@pytest.mark.slow
@pytest.mark.parametrize("num_selected", [1, 2, 3])
@pytest.mark.parametrize("packed", [False, True], ids=["rows", "packed"])
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_routers(moe_config, granularity, packed, num_selected):
  data, tables, kept = draw(packed, seed=num_selected)
  kept = kept[..., :num_selected]
  config = moe_config(
    granularity=granularity,
    num_experts=E,
    num_selected=num_selected,
    num_candidates=M,
    word_table="dealt",
  )
  inputs = router_inputs(data, packed)

  def run(params, x):
    routing = Router(config, R).apply({"params": params}, x, inputs, train=True)
    return routing, measure(routing, jnp.asarray(kept), inputs, R, E)

  routing, found = jax.jit(run, compiler_options=UNOPTIMIZED)(
    parameters(granularity, tables), jnp.asarray(data.x)
  )
  expected = routing_oracle.route(
    granularity,
    tables["table"],
    tables["task_gate"],
    data,
    kept,
    (E, num_selected, M),
    R,
  )
  experts, gates = of_tokens(routing.experts), of_tokens(routing.gates)
  for place, chosen in expected.experts.items():
    assert experts[place].tolist() == chosen
    # float32 against float64: sums of D = 4 products, then exponentials.
    np.testing.assert_allclose(gates[place], expected.gates[place], rtol=1e-5)
  assert len(expected.experts) == (PACKED > 0).sum()
  for name, value in vars(expected).items():
    if name not in ("experts", "gates"):
      np.testing.assert_allclose(
        getattr(found, name), value, rtol=1e-5, atol=1e-6, err_msg=name
      )


def dense_gates(granularity, num_selected, data, params, task_vectors, x):
  """Gates `[B, L, K]` with nothing but dense algebra, to be differentiated.

  The mean of a sentence is a product with a matrix, experts are found outside
  of what is differentiated, and gates are products with one-hot vectors.
  """
  task = jnp.repeat(task_vectors[data.task_ids][:, None], L, axis=1)
  features = x
  if granularity == "task":
    features = task
  elif granularity == "sentence":
    segments = data.segments
    same = (segments[:, :, None] == segments[:, None]) & (segments > 0)[:, None]
    share = same / np.maximum(same.sum(-1, keepdims=True), 1)
    features = jnp.einsum("blm,bmd->bld", share.astype(np.float32), x)
  scores = features @ params["table"]
  if granularity == "task_then_token":
    of_task = task @ params["task_gate"]
    worst = jnp.sort(of_task, axis=-1)[..., E - M, None]
    scores = jnp.where(of_task >= worst, scores + of_task, -jnp.inf)
  probabilities = jnp.exp(scores) / jnp.exp(scores).sum(-1, keepdims=True)
  order = jnp.argsort(-probabilities, axis=-1)[..., :num_selected]
  chosen = jax.nn.one_hot(jax.lax.stop_gradient(order), E)
  gates = jnp.einsum("blke,ble->blk", chosen, probabilities)
  return gates / gates.sum(-1, keepdims=True) if num_selected > 1 else gates


@pytest.mark.slow
@pytest.mark.parametrize(
  ("granularity", "num_selected"),
  [
    ("token", 1),
    ("token", 3),
    ("sentence", 2),
    ("task", 1),
    ("task", 2),
    ("task_then_token", 1),
    ("task_then_token", 2),
  ],
)
def test_gradients_of_gates(moe_config, granularity, num_selected):
  """With respect to parameters, tasks and tokens; rows are packed."""
  data, tables, _ = draw(True, seed=11)
  config = moe_config(
    granularity=granularity,
    num_experts=E,
    num_selected=num_selected,
    num_candidates=M,
  )
  covector = np.random.default_rng(12).normal(size=(B, L, num_selected))
  covector = jnp.asarray(covector * (PACKED > 0)[..., None], jnp.float32)
  inputs = router_inputs(data, packed=True)

  @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def found(params, task_vectors, x):
    routing = Router(config, R).apply(
      {"params": params},
      x,
      inputs.replace(task_vectors=task_vectors[data.task_ids]),
      train=True,
    )
    gates = routing.gates[:, None] if routing.by_row else routing.gates
    return jnp.sum(covector * jnp.broadcast_to(gates, covector.shape))

  @functools.partial(jax.jit, compiler_options=UNOPTIMIZED)
  @functools.partial(jax.grad, argnums=(0, 1, 2))
  def expected(*operands):
    gates = dense_gates(granularity, num_selected, data, *operands)
    return jnp.sum(covector * gates)

  operands = (
    parameters(granularity, tables),
    jnp.asarray(data.task_vectors),
    jnp.asarray(data.x),
  )
  (table, *_), task, x = (jax.tree.leaves(g) for g in found(*operands))
  assert jnp.abs(table).max() > 1e-2
  assert (jnp.abs(task[0]).max() > 1e-2) == (
    GRANULARITIES[granularity].has_task_vectors
  )
  assert (jnp.abs(x[0]).max() > 1e-2) == (granularity != "task")
  # float32 sums of up to some hundred terms of order 1.
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    found(*operands),
    expected(*operands),
  )

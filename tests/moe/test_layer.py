"""The MoE layer: a router, experts, and an engine, put together."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.gates import select_experts
from taskmoe_jax.moe.granularity import TOKEN
from taskmoe_jax.moe.layer import MoeFeedForward
from taskmoe_jax.moe.router_inputs import RouterInputs

B, L, D, F, E, K = 2, 5, 3, 4, 7, 2
SEGMENTS = jnp.array([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]])


@pytest.fixture(scope="module")
def layer():
  config = MoeConfig(
    granularity=TOKEN,
    num_experts=E,
    num_selected=K,
    expert_mlp_dim=F,
    dispatch=Dispatch.CAPACITY,
    # One place an expert: tokens are dropped in training.
    capacity_factor=0.1,
    group_size=B * L,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  return MoeFeedForward(config, 3, Activation.RELU)


@pytest.fixture(scope="module")
def x():
  x = np.random.default_rng(0).normal(size=(B, L, D))
  return jnp.asarray(x, jnp.float32)


@pytest.fixture(scope="module")
def inputs():
  return RouterInputs(jnp.array([0, 2]), SEGMENTS)


@pytest.fixture(scope="module")
def params(layer, x, inputs):
  variables = jax.jit(layer.init, static_argnames="train")(
    jax.random.key(0), x, inputs, train=False
  )
  return nn.unbox(variables)["params"]


def apply(layer, params, *args, train):
  return jax.jit(layer.apply, static_argnames="train")(
    {"params": params}, *args, train=train
  )


@pytest.mark.expensive("it compiles models")
def test_it_is_the_sum_of_the_experts_by_their_gates(layer, params, x, inputs):
  y, statistics = apply(layer, params, x, inputs, train=False)
  gates, experts, _ = select_experts(x @ params["router"]["table"], K)
  wi, wo = params["experts"]["wi"], params["experts"]["wo"]
  for b, t in np.argwhere(SEGMENTS > 0):
    expected = sum(
      gates[b, t, k]
      * (np.maximum(x[b, t] @ wi[experts[b, t, k]], 0) @ wo[experts[b, t, k]])
      for k in range(K)
    )
    np.testing.assert_allclose(y[b, t], expected, rtol=1e-5, atol=1e-6)
  assert statistics.dropped == 0
  load = np.bincount(experts[SEGMENTS > 0].reshape(-1), minlength=E) / (6 * K)
  np.testing.assert_allclose(statistics.load, load, rtol=1e-6)


def test_only_training_drops(layer, params, x, inputs):
  _, statistics = apply(layer, params, x, inputs, train=True)
  # At most E of 12 choices find a place.
  assert statistics.dropped >= 1 - E / 12


def test_losses_have_gradients_and_the_log_has_none(layer, params, x, inputs):
  @jax.jit
  @jax.jacrev
  def gradients(params):
    _, statistics = apply(layer, params, x, inputs, train=False)
    return {name: value.sum() for name, value in vars(statistics).items()}

  largest = {
    name: jnp.abs(gradient["router"]["table"]).max()
    for name, gradient in gradients(params).items()
  }
  for name in ("balance_loss", "z_loss"):
    assert largest.pop(name) > 1e-3
  assert not any(largest.values())


RATE, KEYS = 0.3, 200


@pytest.mark.slow
@pytest.mark.parametrize("dispatch", ["capacity", "expert_fetch"])
def test_gating_dropout_is_all_or_nothing(
  moe_config, params, x, inputs, dispatch
):
  """One coin for the layer; without it the layer is what it was."""

  def over_keys(rate, train):
    config = moe_config(
      granularity="sentence" if dispatch == "expert_fetch" else "token",
      dispatch=dispatch,
      gating_dropout_rate=rate,
      capacity_factor=0.1,
    )
    layer = MoeFeedForward(config, 3, Activation.RELU)

    def run(key):
      rngs = {"dropout": jax.random.key(key)}
      return layer.apply({"params": params}, x, inputs, train=train, rngs=rngs)

    return jax.jit(lambda keys: jax.lax.map(run, keys))(jnp.arange(KEYS))

  plain, _ = over_keys(0.0, train=True)
  y, statistics = over_keys(RATE, train=True)
  skipped = np.asarray((y == 0).all((1, 2, 3)))
  # Sums of a dozen products of order 1, perhaps in another order.
  np.testing.assert_allclose(y[~skipped], plain[~skipped], atol=1e-6)
  sigma = np.sqrt(KEYS * RATE * (1 - RATE))
  assert abs(skipped.sum() - KEYS * RATE) < 5 * sigma
  # Nothing finds an expert full that is not asked; the router is asked anyway.
  assert not statistics.dropped[skipped].any()
  assert (statistics.dropped[~skipped] > 0).all() == (dispatch == "capacity")
  np.testing.assert_allclose(statistics.load.sum(-1), 1, rtol=1e-6)
  assert (over_keys(RATE, train=False)[0] != 0).any((1, 2, 3)).all()


@pytest.mark.slow
def test_what_is_skipped_has_no_gradient(moe_config, params, x, inputs):
  layer = MoeFeedForward(
    moe_config(gating_dropout_rate=0.5), 3, Activation.RELU
  )

  @jax.jit
  @jax.value_and_grad
  def run(params, key):
    y, _ = layer.apply(
      {"params": params},
      x,
      inputs,
      train=True,
      rngs={"dropout": jax.random.key(key)},
    )
    return jnp.sum(y**2)

  both = set()
  for key in range(8):
    total, gradients = run(params, key)
    largest = max(jnp.abs(g).max() for g in jax.tree.leaves(gradients))
    assert (largest > 0) == (total > 0)
    both.add(bool(total > 0))
  assert both == {True, False}

"""The bias that balances without a loss: by hand, and at work."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.balancing import balanced_bias
from taskmoe_jax.moe.routing import Router, RouterInputs
from taskmoe_jax.moe.statistics import measure


def test_by_hand():
  """Two layers; the mean load of four experts is a quarter."""
  bias = jnp.array([[0.5, 0, 0, -0.5], [0, 0, 0, 0]])
  load = jnp.array([[0.5, 0.25, 0.0, 0.25], [0.25, 0.25, 0.25, 0.25]])
  np.testing.assert_allclose(
    balanced_bias(bias, load, 0.125),
    [[0.375, 0, 0.125, -0.5], [0, 0, 0, 0]],
  )


def test_a_step_of_padding_moves_nothing():
  bias = jnp.array([0.5, -0.25, 0])
  np.testing.assert_array_equal(balanced_bias(bias, jnp.zeros(3), 0.1), bias)


@pytest.mark.parametrize("num_selected", [1, 3])
def test_loads_come_together(moe_config, num_selected):
  """Tokens that like a few experts, which nobody teaches; only the bias moves.

  500 tokens, seven experts: each should get a seventh.
  """
  rate = 0.001
  config = moe_config(num_selected=num_selected, balance_bias_rate=rate)
  router = Router(config, 1)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(1.0, 1.0, (5, 100, 3)), jnp.float32)
  table = jnp.asarray(0.3 * rng.normal(size=(3, 7)), jnp.float32)
  inputs = RouterInputs(jnp.zeros(5, int), jnp.ones((5, 100), int))

  def step(bias, _):
    routing = router.apply(
      {"params": {"table": table, "balance_bias": bias}},
      x,
      inputs,
      train=True,
    )
    load = measure(routing, None, inputs, 1, 7).load
    return balanced_bias(bias, load, rate), load

  run = jax.jit(lambda bias: jax.lax.scan(step, bias, None, 1000))
  _, loads = run(jnp.zeros(7))
  spread = np.asarray(loads.max(1) - loads.min(1))
  assert spread[0] > 0.25 / num_selected
  # In the end each bias goes to and fro by a step or two of the rate.
  assert spread[-20:].max() < 0.15 * spread[0]

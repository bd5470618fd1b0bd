"""A step whose loss is not finite changes nothing but counts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.models.losses import Objective
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.train import optimizers
from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.train.step.step import TrainStep


@functools.partial(jax.jit, static_argnums=0)
def _take(step, state, batch):
  return step(state, batch)


@pytest.mark.expensive("it compiles or runs whole programs")
def test_what_is_not_finite_updates_nothing(space, batch, dense, random_params):
  """But is counted: as a step, and as skipped; the schedule counts updates."""
  optimizer = optimizers.adamw(
    lambda step: 0.5 + step, b1=0.9, b2=0.98, eps=1e-9
  )
  objective = Objective(label_smoothing=0.0, z_loss_weight=0.0)
  model = Transformer(dense, len(space.tasks))
  step = TrainStep(model, optimizer, space, 1, objective, 0)
  params, zero = random_params(model), jnp.int32(0)
  state = TrainState(zero, params, optimizer.transformation.init(params), zero)

  def take(state, weight):
    rows = dict(batch)
    rows["decoder_loss_weights"] = weight * batch["decoder_loss_weights"]
    after, metrics = _take(step, state, rows)
    assert int(after.step) == int(state.step) + 1
    return after, metrics

  first, metrics = take(state, 1.0)
  assert (float(metrics.learning_rate), float(metrics.skipped)) == (0.5, 0)
  for bad in (jnp.nan, jnp.inf):
    after, metrics = take(first, bad)
    assert (float(metrics.learning_rate), float(metrics.skipped)) == (1.5, 1)
    assert int(after.skipped) == 1
    jax.tree.map(
      np.testing.assert_array_equal,
      (after.params, after.optimizer_state),
      (first.params, first.optimizer_state),
    )
  # As if the bad batch had not been, but for keys, of which there are none.
  skipped, metrics = take(after, 1.0)
  expected, _ = take(first, 1.0)
  assert (float(metrics.learning_rate), float(metrics.skipped)) == (1.5, 0)
  assert (int(skipped.step), int(skipped.skipped)) == (3, 1)
  jax.tree.map(np.testing.assert_array_equal, skipped.params, expected.params)

"""One step against losses and updates worked out outside of it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taskmoe_jax.models.losses import Objective
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.train import optimizers
from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.train.step.step import TrainStep


def _sgd(learning_rate, clip=None):
  clipping = optax.clip_by_global_norm(clip) if clip else optax.identity()
  return optimizers.Optimizer(
    optax.chain(clipping, optax.sgd(learning_rate)), lambda _: learning_rate
  )


_SGD = _sgd(0.5)


@functools.partial(jax.jit, static_argnums=0)
def _take(step, state, batch):
  return step(state, batch)


@pytest.fixture
def run(space, batch, random_params):
  """Takes one step; returns the params before, those after, the metrics."""

  def run(
    config,
    optimizer=_SGD,
    *,
    label_smoothing=0.0,
    z_loss_weight=0.0,
    seed=0,
    at_step=0,
  ):
    objective = Objective(
      label_smoothing=label_smoothing, z_loss_weight=z_loss_weight
    )
    model = Transformer(config, len(space.tasks))
    params = random_params(model)
    step = TrainStep(model, optimizer, space, 1, objective, seed)
    state = TrainState(
      jnp.int32(at_step),
      params,
      optimizer.transformation.init(params),
      jnp.int32(0),
    )
    after, metrics = _take(step, state, batch)
    assert int(after.step) == at_step + 1
    return params, after.params, metrics

  return run


@functools.partial(jax.jit, static_argnums=0)
def _apply(config, params, batch):
  # Tasks by target language: en is 0, de is 1.
  return Transformer(config, 3).apply(
    {"params": params}, batch, jnp.array([1, 0, 0]), train=True
  )


def _log_probabilities(config, params, batch):
  return np.asarray(jax.nn.log_softmax(_apply(config, params, batch)[0]))


@pytest.mark.expensive("it compiles models")
def test_loss_is_the_mean_over_target_tokens(run, dense, batch):
  config = dense
  params, _, metrics = run(config)
  log_p = _log_probabilities(config, params, batch)
  targets = np.asarray(batch["decoder_target_tokens"])
  lengths = (3, 1, 4)
  rows = [
    [-log_p[row, i, targets[row, i]] for i in range(length)]
    for row, length in enumerate(lengths)
  ]
  hits = sum(
    log_p[row, i].argmax() == targets[row, i]
    for row, length in enumerate(lengths)
    for i in range(length)
  )
  assert float(metrics.tokens) == 8
  assert float(metrics.loss) == pytest.approx(sum(map(sum, rows)), rel=1e-5)
  assert float(metrics.correct) == hits
  np.testing.assert_allclose(
    metrics.pair_loss,
    [sum(rows[0]), 0, 0, sum(rows[1]) + sum(rows[2])],
    rtol=1e-5,
  )
  np.testing.assert_array_equal(metrics.pair_tokens, [3, 0, 0, 5])


@pytest.mark.expensive("it compiles models")
def test_label_smoothing_is_part_of_the_loss(run, dense, batch):
  config = dense
  params, _, metrics = run(config, label_smoothing=0.25)
  log_p = _log_probabilities(config, params, batch)
  targets = np.asarray(batch["decoder_target_tokens"])
  expected = -sum(
    0.75 * log_p[row, i, targets[row, i]] + 0.25 * log_p[row, i].mean()
    for row, length in enumerate((3, 1, 4))
    for i in range(length)
  )
  assert float(metrics.loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.expensive("it compiles models")
def test_routing_losses_are_weighted(run, model_config, batch):
  config = model_config(moe={"balance_loss_weight": 0.3, "z_loss_weight": 0.07})
  params, after, metrics = run(config)

  @jax.jit
  @jax.grad
  def gradient(params, balance_weight, z_weight):
    logits, routing = _apply(config, params, batch)
    log_p = jax.nn.log_softmax(logits)
    targets = batch["decoder_target_tokens"]
    picked = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    total = -jnp.sum(jnp.where(targets > 0, picked, 0.0)) / 8
    for stack in ("encoder", "decoder"):
      total += balance_weight * routing[stack].balance_loss[0]
      total += z_weight * routing[stack].z_loss[0]
    return total

  expected = gradient(params, 0.3, 0.07)
  jax.tree.map(
    lambda old, new, slope: np.testing.assert_allclose(
      new, old - 0.5 * slope, rtol=1e-4, atol=1e-6
    ),
    params,
    after,
    expected,
  )
  norm = np.sqrt(sum(np.sum(g**2) for g in jax.tree.leaves(expected)))
  assert float(metrics.gradient_norm) == pytest.approx(norm, rel=1e-4)
  groups = metrics.gradient_norms
  assert list(groups) == [
    *("decoder", "embeddings", "encoder", "experts", "routers")
  ]
  assert np.linalg.norm(list(groups.values())) == pytest.approx(norm, rel=1e-4)
  moe = [
    expected[stack]["blocks"]["layer_1"]["moe"]
    for stack in ("encoder", "decoder")
  ]
  experts = jax.tree.leaves([layer["experts"] for layer in moe])
  norm = np.sqrt(sum(np.sum(g**2) for g in experts))
  assert float(groups["experts"]) == pytest.approx(norm, rel=1e-4)
  # Of 4 source and 5 target places: 3 and 3, 2 and 1, 4 and 4.
  assert float(metrics.row_fill) == pytest.approx((0.75 + 0.5 + 1) / 3)
  assert metrics.routing.keys() == {"encoder", "decoder"}
  # Either weight matters to either router, or the test would see nothing.
  for weights in ((0.0, 0.07), (0.3, 0.0)):
    other = gradient(params, *weights)
    for stack in ("encoder", "decoder"):
      tables = (
        tree[stack]["blocks"]["layer_1"]["moe"]["router"]["table"]
        for tree in (expected, other)
      )
      assert np.abs(np.subtract(*tables)).max() > 1e-4


@pytest.mark.expensive("it compiles models")
def test_gradients_are_clipped_after_their_norm_is_measured(run, dense):
  params, after, metrics = run(dense, _sgd(1.0, clip=0.1))
  change = jax.tree.map(lambda old, new: np.asarray(new - old), params, after)
  norm = np.sqrt(sum(np.sum(c**2) for c in jax.tree.leaves(change)))
  assert float(metrics.gradient_norm) > 0.2
  assert norm == pytest.approx(0.1, rel=1e-3)


@pytest.mark.expensive("it compiles models")
def test_dropout_is_of_the_seed_and_the_step(run, dense):
  config = dataclasses.replace(dense, dropout_rate=0.3)
  losses = [
    float(run(config, seed=seed, at_step=step)[2].loss)
    for seed, step in ((0, 0), (0, 0), (1, 0), (0, 1))
  ]
  assert losses[0] == losses[1]
  assert len(set(losses)) == 3


@pytest.mark.slow
def test_a_batch_without_target_tokens(run, dense, batch):
  batch["decoder_loss_weights"] *= 0.0
  _, after, metrics = run(dense)
  assert float(metrics.loss) == 0.0
  assert float(metrics.tokens) == 0.0
  assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))


_BIAS = ("encoder", "blocks", "layer_1", "moe", "router", "balance_bias")


def _greedy_adam():
  """Would decay whatever it is given, and move it without a gradient."""
  return optimizers.Optimizer(
    optax.chain(
      optax.adamw(0.1, weight_decay=0.5),
      optax.stateless(lambda u, _: jax.tree.map(lambda x: x + 0.01, u)),
    ),
    lambda _: 0.1,
  )


@pytest.mark.expensive("it compiles models")
@pytest.mark.parametrize(
  "optimizer", [_SGD, _greedy_adam()], ids=["sgd", "adam"]
)
def test_only_the_load_moves_a_balance_bias(
  run, model_config, dense, optimizer
):
  """By the rate, towards experts that had less than the mean of a quarter."""
  rate = 0.125
  both = model_config(moe={"balance_bias_rate": rate, "granularity": "token"})
  config = model_config(encoder=both.encoder, decoder=dense.decoder)
  before, after, metrics = run(config, optimizer)
  old, new = (
    functools.reduce(dict.__getitem__, _BIAS, tree) for tree in (before, after)
  )
  assert old.shape == (1, 4)
  load = np.asarray(metrics.routing["encoder"].load)
  assert (load != 0.25).any()
  np.testing.assert_allclose(new, old + rate * np.sign(0.25 - load), rtol=1e-6)
  # And nothing but the bias is changed by it.
  assert jax.tree.structure(before) == jax.tree.structure(after)


@pytest.mark.expensive("it compiles models")
def test_a_balance_bias_has_no_gradient(model_config, random_params, batch):
  both = model_config(moe={"balance_bias_rate": 0.1, "granularity": "token"})
  params = random_params(Transformer(both, 3))

  @jax.jit
  @jax.grad
  def gradient(params):
    logits, routing = _apply(both, params, batch)
    return jnp.sum(logits**2) + sum(s.balance_loss[0] for s in routing.values())

  found = gradient(params)
  for stack in ("encoder", "decoder"):
    router = found[stack]["blocks"]["layer_1"]["moe"]["router"]
    assert jnp.abs(router["table"]).max() > 1e-3
    assert not router["balance_bias"].any()


@pytest.mark.expensive("it compiles models")
def test_the_z_loss_pulls_log_partitions_to_zero(run, dense, batch):
  config = dense
  params, after, metrics = run(config, z_loss_weight=0.5)
  logits = np.asarray(_apply(config, params, batch)[0], np.float64)
  weights = np.asarray(batch["decoder_loss_weights"])
  log_partition = np.log(np.exp(logits).sum(-1))
  expected = (weights * log_partition**2).sum()
  assert float(metrics.z_loss) == pytest.approx(expected, rel=1e-4)
  # It is not part of the loss that is reported, but of what is minimised.
  _, without, plain = run(config)
  assert float(metrics.loss) == pytest.approx(float(plain.loss), rel=1e-6)

  @jax.jit
  @jax.grad
  def gradient(params):
    scores = jax.nn.logsumexp(_apply(config, params, batch)[0], axis=-1)
    return (weights * scores**2).sum() / 8

  jax.tree.map(
    lambda a, b, slope: np.testing.assert_allclose(
      a, b - 0.5 * 0.5 * slope, rtol=1e-3, atol=1e-5
    ),
    after,
    without,
    gradient(params),
  )

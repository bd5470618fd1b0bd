"""A batch in parts is the batch: same gradients, same noise, any mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.losses import Objective
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.statistics import RoutingStatistics
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.train import optimizers
from taskmoe_jax.train.step import microbatches, step
from taskmoe_jax.train.step.state import TrainState

B, S, T = 24, 6, 5


# Optimising takes longer than it saves.
jit = functools.partial(
  jax.jit,
  compiler_options={
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  },
)


@pytest.fixture
def batch(space):
  """Rows of very different lengths in twos of one task, packed."""
  rng = np.random.default_rng(0)
  languages = space.languages
  en, de, fr = map(languages.index, ("en", "de", "fr"))
  pairs = np.array([(en, de), (de, en), (en, fr), (fr, en)], np.int32)
  chosen = np.repeat(pairs[rng.integers(0, 4, B // 2)], 2, axis=0)

  def side(length):
    lengths = rng.integers(0, length + 1, B)
    segments = np.where(
      np.arange(length) < lengths[:, None], 1 + np.arange(length) // 3, 0
    )
    return (
      rng.integers(2, 19, (B, length)) * (segments > 0),
      segments,
      np.arange(length) % 3 * (segments > 0),
    )

  sources, source_segments, source_positions = side(S)
  targets, target_segments, target_positions = side(T)
  arrays = {
    "encoder_input_tokens": sources,
    "encoder_segment_ids": source_segments,
    "encoder_positions": source_positions,
    "decoder_input_tokens": targets,
    "decoder_target_tokens": targets,
    "decoder_segment_ids": target_segments,
    "decoder_positions": target_positions,
    "source_language": chosen[:, 0],
    "target_language": chosen[:, 1],
  }
  arrays = {name: jnp.asarray(a, jnp.int32) for name, a in arrays.items()}
  arrays["decoder_loss_weights"] = jnp.asarray(target_segments > 0, jnp.float32)
  return arrays


# All that may depend on a row, a sentence, a token or a task; no capacity and
# no balance loss, which are of a microbatch.
NOISY = {
  "balance_loss_weight": 0.0,
  "z_loss_weight": 0.3,
  "second_expert_policy": "random",
  "second_expert_threshold": 1.0,
  "jitter": 0.3,
  "expert_mask_rate": 0.2,
  "gating_dropout_rate": 0.2,
}
OPTIMIZER = optimizers.Optimizer(optax.sgd(1.0), lambda _: 1.0)
# Gradients are what SGD with a rate of 1 takes away; in float32 of weights near
# 1, sums of 24 rows in another order differ so much.
TOLERANCES = {"rtol": 2e-4, "atol": 3e-6}


@pytest.fixture
def take(space, batch, model_config, random_params):
  """Takes a step on a mesh; returns the change of params, and the metrics."""

  def take(parts, moe=NOISY, mesh=None):
    config = model_config(moe=moe, dropout_rate=0.2)
    # The biases follow the load of all microbatches.
    encoder = dataclasses.replace(
      config.encoder,
      moe=dataclasses.replace(config.encoder.moe, balance_bias_rate=0.125),
    )
    config = dataclasses.replace(config, encoder=encoder)
    params = random_params(Transformer(config, len(space.tasks)))
    one = step.TrainStep(
      Transformer(config, len(space.tasks)),
      OPTIMIZER,
      space,
      2,
      Objective(label_smoothing=0.1, z_loss_weight=0.01),
      seed=5,
      num_microbatches=parts,
    )
    zero = jnp.int32(0)
    state = TrainState(
      zero, params, OPTIMIZER.transformation.init(params), zero
    )
    rows = dict(batch)
    if mesh is None:
      after, metrics = jit(one)(state, rows)
    else:
      partitioning = Partitioning(make_mesh(mesh, jax.devices()[:4]))
      rows = {
        n: partitioning.spread_rows(np.asarray(a)) for n, a in rows.items()
      }
      state = jax.device_put(state, partitioning.replicated)
      with activate(partitioning):
        after, metrics = jit(one)(state, rows)
    change = jax.tree.map(lambda new, old: new - old, after.params, params)
    return jax.device_get((change, metrics))

  return take


def _assert_close(found, expected):
  pairs = zip(
    *(jax.tree.leaves(_without_balance_loss(x)) for x in (found, expected)),
    strict=True,
  )
  for a, b in pairs:
    np.testing.assert_allclose(a, b, **TOLERANCES)


def _without_balance_loss(found):
  """It has no weight here, and is no mean over tokens: see the next test."""
  change, metrics = found
  routing = {
    name: statistics.replace(balance_loss=0 * statistics.balance_loss)
    for name, statistics in metrics.routing.items()
  }
  return change, metrics.replace(routing=routing)


@pytest.mark.expensive("it compiles one step in many ways")
def test_any_number_is_the_whole_batch_with_all_noise(take):
  """Here on a mesh too, whose devices have two rows of each microbatch."""
  whole = take(1)
  assert whole[1].tokens > 20
  _assert_close(take(3, mesh=MeshShape(data=4)), whole)


def test_losses_of_microbatches_are_shares_of_the_batchs(batch):
  """Means over tokens: of 5 tokens in all one part has 2, the other 3."""
  whole = step._BatchTotals(jnp.float32(1), {"encoder": jnp.int32(5)})

  def part(tokens, loss):
    zeros = jnp.zeros((1, 3, 4))
    statistics = RoutingStatistics(
      jnp.array([loss]),
      jnp.array([10 * loss]),
      jnp.array([[tokens - 1.0, 1.0, 0.0]]),
      *(zeros, zeros[..., 0], zeros[..., 0]),
    )
    return whole.shares({"encoder": statistics})["encoder"]

  parts = part(2, 1.0), part(3, 6.0)
  assert sum(p.balance_loss[0] for p in parts) == pytest.approx(4.0)
  assert sum(p.z_loss[0] for p in parts) == pytest.approx(40.0)
  # Padding is routed nowhere.
  tokens = step._BatchTotals.of(batch).tokens
  assert tokens["encoder"] == (batch["encoder_segment_ids"] > 0).sum()
  assert tokens["decoder"] == batch["decoder_loss_weights"].sum()


def test_rows_are_dealt_in_groups():
  rows = {"row": jnp.arange(12), "tokens": jnp.arange(24).reshape(12, 2)}
  parts = microbatches.split(rows, 3, 2)
  expected = [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]]
  np.testing.assert_array_equal(parts["row"], expected)
  np.testing.assert_array_equal(parts["tokens"][..., 0], 2 * parts["row"])


def test_no_row_leaves_its_device():
  """And which rows are in which microbatch is the same on one device."""
  partitioning = Partitioning(make_mesh(MeshShape(data=4, expert=2, model=1)))
  rows = {"row": partitioning.spread_rows(np.arange(48))}
  with activate(partitioning):
    deal = jax.jit(lambda rows: microbatches.split(rows, 3, 2))
    compiled = deal.lower(rows).compile()
    found = compiled(rows)["row"]
  for moved in ("all-to-all", "all-gather", "collective-permute"):
    assert moved not in compiled.as_text()
  assert {shard.data.shape for shard in found.addressable_shards} == {(3, 2)}
  alone = microbatches.split({"row": jnp.arange(48)}, 3, 2)["row"]
  np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize(
  ("size", "parts", "group", "mesh", "expected"),
  [
    (24, 3, 4, None, 4),
    (24, 4, 4, None, 2),
    (48, 3, 2, MeshShape(data=8), 2),
    # Three rows a device, of groups of four: they are single in microbatches.
    (24, 3, 4, MeshShape(data=8), 1),
  ],
)
def test_rows_that_stay_together(size, parts, group, mesh, expected):
  if mesh is None:
    assert microbatches.rows_together(size, parts, group) == expected
    return
  with activate(Partitioning(make_mesh(mesh))):
    assert microbatches.rows_together(size, parts, group) == expected


@pytest.mark.parametrize(
  ("parts", "message"),
  [
    (
      3,
      r"a batch of 16 rows does not divide into 3 microbatches for 8 devices\."
      r" Set MICROBATCHES, or BATCH_SIZE to a multiple of 24\.",
    ),
    (0, r"a batch of 16 rows does not divide into 0 microbatches"),
  ],
)
def test_microbatches_that_cannot_be(parts, message):
  microbatches.check_microbatches(16, 2, 8)
  with pytest.raises(TaskMoeError, match=message):
    microbatches.check_microbatches(16, parts, 8)

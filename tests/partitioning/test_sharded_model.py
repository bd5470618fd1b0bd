"""A mixture on meshes of eight devices: shard shapes, loss and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.models.losses import cross_entropy
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import GRANULARITIES, TOKEN
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning, activate

B, S, T, NUM_TASKS = 16, 7, 5, 3
# Rows stand in twos of one task.
ROWS_PER_TASK_GROUP = 2


def stack(granularity, num_layers):
  moe = MoeConfig(
    granularity=GRANULARITIES[granularity],
    num_experts=8,
    num_selected=2,
    expert_mlp_dim=40,
    # Tokens travel to experts, and are dropped; experts travel to rows.
    dispatch=Dispatch.CAPACITY if granularity == "token" else Dispatch.AUTO,
    capacity_factor=1.25,
    group_size=2 * S,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  return StackConfig(num_layers=num_layers, mlp_dims=(12,), moe=moe)


def model_of(granularity):
  config = ModelConfig(
    vocab_size=26,
    embed_dim=24,
    num_heads=4,
    head_dim=5,
    activation=Activation.RELU,
    embeddings=Embeddings.ONE,
    encoder=stack(granularity, 2),
    decoder=stack(granularity, 4),
  )
  return Transformer(config, NUM_TASKS)


@pytest.fixture(scope="module")
def batch():
  """Rows of different lengths, the last of which is nothing but padding."""
  rng = np.random.default_rng(0)

  def tokens(length, lengths):
    ids = rng.integers(2, 26, (B, length))
    return np.where(np.arange(length) < lengths[:, None], ids, 0)

  sources = rng.integers(1, S + 1, B)
  targets = rng.integers(1, T + 1, B)
  sources[-1] = targets[-1] = 0
  weights = np.arange(T) < targets[:, None]
  tasks = np.repeat(rng.integers(0, NUM_TASKS, B // 2), 2)
  batch = {
    "encoder_input_tokens": tokens(S, sources),
    "decoder_input_tokens": tokens(T, targets),
    "decoder_target_tokens": tokens(T, targets),
    "decoder_loss_weights": weights.astype(np.float32),
    "task_ids": tasks,
  }
  return {
    name: jnp.asarray(x, "float32" if x.dtype == np.float32 else "int32")
    for name, x in batch.items()
  }


def boxed_params(model, batch):
  return jax.eval_shape(
    lambda: model.init(jax.random.key(0), batch, batch["task_ids"], train=False)
  )["params"]


def draw(boxed):
  rng = np.random.default_rng(1)
  return jax.tree.map(
    lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(np.float32),
    nn.unbox(boxed),
  )


def loss_of(model):
  def loss(params, batch):
    logits, statistics = model.apply(
      {"params": params},
      batch,
      batch["task_ids"],
      train=True,
      rows_per_task_group=ROWS_PER_TASK_GROUP,
    )
    losses = cross_entropy(
      logits, batch["decoder_target_tokens"], label_smoothing=0.1
    )[0]
    weights = batch["decoder_loss_weights"]
    return (losses * weights).sum() / weights.sum(), statistics

  # Optimising takes longer than it saves.
  options = {
    "xla_backend_optimization_level": 0,
    "xla_llvm_disable_expensive_passes": True,
  }
  return jax.jit(
    jax.value_and_grad(loss, has_aux=True), compiler_options=options
  )


def partitioning(mesh, fsdp):
  slices, data, expert, model = mesh
  shape = MeshShape(slices=slices, data=data, expert=expert, model=model)
  return Partitioning(make_mesh(shape), fsdp)


def distributed(boxed, params, partitioning):
  def place(path, box, value):
    name = "/".join(key.key for key in path)
    sharding = partitioning.parameter_sharding(name, value.shape, box.names)
    return jax.device_put(value, sharding)

  return jax.tree_util.tree_map_with_path(
    place, boxed, params, is_leaf=lambda leaf: hasattr(leaf, "names")
  )


# Shard shapes: table [V, D], query [blocks, D, N, H], router [blocks, D, E].
WHOLE = ((26, 24), (2, 24, 4, 5), (2, 24, 8))
# wi [blocks, E, D, F], whose experts tokens travel to, or which are fetched.
WI = (2, 8, 24, 40)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("mesh", "fsdp", "shapes", "visited", "fetched"),
  [
    ((1, 8, 1, 1), False, WHOLE, WI, WI),
    (
      (1, 8, 1, 1),
      True,
      ((26, 3), (2, 3, 4, 5), (2, 3, 8)),
      (2, 8, 3, 40),
      (2, 8, 24, 5),
    ),
    (
      (1, 1, 8, 1),
      False,
      ((26, 24), (2, 24, 4, 5), (2, 24, 1)),
      (2, 1, 24, 40),
      (2, 8, 24, 5),
    ),
    (
      (1, 2, 2, 2),
      False,
      ((13, 24), (2, 24, 2, 5), (2, 24, 4)),
      (2, 4, 24, 20),
      (2, 8, 24, 10),
    ),
    (
      (1, 2, 2, 2),
      True,
      ((13, 12), (2, 12, 2, 5), (2, 12, 4)),
      (2, 4, 12, 20),
      (2, 8, 24, 5),
    ),
    (
      (1, 4, 2, 1),
      False,
      ((26, 24), (2, 24, 4, 5), (2, 24, 4)),
      (2, 4, 24, 40),
      (2, 8, 24, 20),
    ),
    # Nothing is split over slices: as (2, 2, 1) on four devices.
    (
      (2, 2, 2, 1),
      True,
      ((26, 12), (2, 12, 4, 5), (2, 12, 4)),
      (2, 4, 12, 40),
      (2, 8, 24, 10),
    ),
  ],
)
@pytest.mark.parametrize("granularity", ["token", "task"])
def test_parameters_lie_in_shards(
  granularity, mesh, fsdp, shapes, visited, fetched, batch
):
  boxed = boxed_params(model_of(granularity), batch)
  params = distributed(boxed, draw(boxed), partitioning(mesh, fsdp))
  layers = params["decoder"]["blocks"]
  chosen = (
    params["embedding"]["table"],
    layers["layer_0"]["self_attention"]["query"],
    layers["layer_1"]["moe"]["router"]["table"],
    layers["layer_1"]["moe"]["experts"]["wi"],
    layers["layer_1"]["moe"]["experts"]["wo"].swapaxes(2, 3),
  )
  wi = fetched if granularity == "task" else visited
  assert tuple(x.shape for x in chosen) == (*WHOLE, WI, WI)
  for x, shape in zip(chosen, (*shapes, wi, wi), strict=True):
    assert len(x.addressable_shards) == 8
    assert {shard.data.shape for shard in x.addressable_shards} == {shape}


@pytest.fixture(scope="module", params=["token", "task"])
def on_one_device(request, batch):
  model = model_of(request.param)
  boxed = boxed_params(model, batch)
  params = draw(boxed)
  result = loss_of(model)(params, batch)
  return model, boxed, params, jax.device_get(result)


def close(found, expected):
  for a, b in zip(
    jax.tree.leaves(found), jax.tree.leaves(expected), strict=True
  ):
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.expensive("it compiles models")
@pytest.mark.parametrize(
  ("mesh", "fsdp"),
  [
    ((1, 8, 1, 1), True),
    ((1, 1, 8, 1), False),
    ((1, 2, 2, 2), False),
    ((2, 2, 2, 1), True),
  ],
)
def test_a_mesh_computes_what_one_device_does(mesh, fsdp, on_one_device, batch):
  model, boxed, params, expected = on_one_device
  parts = partitioning(mesh, fsdp)
  rows = parts.sharding("act_batch")
  with activate(parts):
    found = loss_of(model)(
      distributed(boxed, params, parts), jax.device_put(batch, rows)
    )
  (loss, statistics), gradients = jax.device_get(found)
  (one_loss, one_statistics), one_gradients = expected
  # float32 sums of some hundred terms of order 1, in another order.
  np.testing.assert_allclose(loss, one_loss, rtol=1e-5)
  close(statistics, one_statistics)
  close(gradients, one_gradients)
  assert all(np.abs(g).max() > 1e-4 for g in jax.tree.leaves(gradients))
  assert (statistics["encoder"].dropped > 0).any() == (
    model.config.encoder.moe.granularity == TOKEN
  )

"""FLOPs by hand, and against XLA's own count of the same program."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.models.flops import peak_flops, program_flops, token_flops
from taskmoe_jax.models.parameters import abstract_params
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import TASK, TOKEN
from taskmoe_jax.partitioning.meshes import (
  MeshShape,
  make_mesh,
  simulated_devices,
)
from taskmoe_jax.partitioning.rules import Partitioning, activate

ROWS = 16
LENGTHS = {"source_length": 20, "target_length": 12}


@pytest.fixture
def model_config():
  """Makes a config; D 8, N 2, H 3, V 19, and four experts of F 5."""

  def stack(granularity):
    moe = MoeConfig(
      granularity=granularity,
      num_experts=4,
      num_selected=2,
      expert_mlp_dim=5,
      dispatch=Dispatch.AUTO,
      capacity_factor=2.0,
      group_size=64,
      balance_loss_weight=0.01,
      z_loss_weight=0.001,
    )
    return StackConfig(num_layers=2, mlp_dims=(7,), moe=moe)

  def make(**changes):
    settings = {
      "vocab_size": 19,
      "embed_dim": 8,
      "num_heads": 2,
      "head_dim": 3,
      "activation": Activation.RELU,
      "embeddings": Embeddings.ONE,
      "encoder": stack(TOKEN),
      "decoder": stack(TASK),
    }
    return ModelConfig(**(settings | changes))

  return make


def test_a_dense_token_by_hand(model_config):
  """D 8, N·H 6, F 7 and V 19; one encoder layer, two decoder layers."""
  flops = token_flops(
    model_config(
      encoder=StackConfig(num_layers=1, mlp_dims=(7,)),
      decoder=StackConfig(num_layers=2, mlp_dims=(7,)),
    ),
    **LENGTHS,
  )
  attention, keys_values, network = 8 * 8 * 6, 4 * 8 * 6, 4 * 8 * 7
  assert flops.source == attention + 4 * 20 * 6 + network + 2 * keys_values
  reading = 4 * 8 * 6 + 4 * 20 * 6
  assert flops.target == (
    2 * (attention + 4 * 12 * 6 + reading + network) + 2 * 8 * 19
  )
  assert flops.training_step(3, 5) == 9 * flops.source + 15 * flops.target


def test_experts_cost_what_is_chosen(model_config):
  """Two of four experts of F 5; tokens that choose pay for the router."""
  by_token, by_task = model_config().encoder, model_config().decoder
  dense = StackConfig(num_layers=2, mlp_dims=(7, 10))

  def source(**changes):
    return token_flops(model_config(**changes), **LENGTHS).source

  assert source(encoder=by_task) == source(encoder=dense)
  assert source(encoder=by_token) == source(encoder=dense) + 2 * 8 * 4
  gated = source(activation=Activation.GATED_GELU)
  assert gated == source() + 2 * 8 * (7 + 2 * 5)


@pytest.fixture
def gradient(model_config):
  """A gradient, its arguments and model; most of its work are products."""

  def make(*, blocks=1, experts=False, dispatch=("auto", "auto")):
    stacks = {}
    for name, engine in zip(("encoder", "decoder"), dispatch, strict=True):
      moe = getattr(model_config(), name).moe if experts else None
      if experts:
        moe = dataclasses.replace(
          moe, dispatch=Dispatch(engine), expert_mlp_dim=96
        )
      layers = blocks * (2 if experts else 1)
      stacks[name] = StackConfig(num_layers=layers, mlp_dims=(128,), moe=moe)
    config = model_config(
      vocab_size=600, embed_dim=64, num_heads=4, head_dim=24, **stacks
    )
    model = Transformer(config, 3)

    def loss(params, batch, task_ids):
      logits, _ = model.apply(
        {"params": params},
        batch,
        task_ids,
        train=True,
        rows_per_task_group=4,
        rngs={"dropout": jax.random.key(0)},
      )
      return jax.nn.logsumexp(logits, axis=-1).mean()

    def shape(*sizes, dtype=jnp.int32):
      return jax.ShapeDtypeStruct(sizes, dtype)

    target = (ROWS, LENGTHS["target_length"])
    batch = {
      "encoder_input_tokens": shape(ROWS, LENGTHS["source_length"]),
      "decoder_input_tokens": shape(*target),
      "decoder_loss_weights": shape(*target, dtype=jnp.float32),
    }
    params = nn.unbox(abstract_params(model))
    return jax.grad(loss), (params, batch, shape(ROWS)), config

  return make


def needed(config):
  tokens = (ROWS * length for length in LENGTHS.values())
  return token_flops(config, **LENGTHS).training_step(*tokens)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("experts", "dispatch"),
  [(False, ("auto", "auto")), (True, ("capacity", "expert_fetch"))],
)
def test_as_many_as_xla_counts(gradient, experts, dispatch):
  """XLA also counts what is no product: a few percent at these widths."""
  function, arguments, config = gradient(experts=experts, dispatch=dispatch)
  counted = program_flops(function, *arguments)
  xla = jax.jit(function).lower(*arguments).cost_analysis()["flops"]
  assert 1.0 < xla / counted < 1.03
  if not experts:
    # Means over sentences are products too, and no part of the mathematics.
    assert counted / needed(config) == pytest.approx(1.0, abs=1e-3)
  else:
    # Capacity factor 2: in the encoder each expert computes twice its share.
    places = 3 * 2 * ROWS * LENGTHS["source_length"] * 2 * 2 * 64 * 96
    assert counted == pytest.approx(needed(config) + places, rel=1e-3)


@pytest.mark.slow
def test_every_turn_of_a_scan_counts(gradient):
  """XLA counts one turn of a loop."""
  function, arguments, config = gradient(blocks=5)
  counted = program_flops(function, *arguments)
  assert counted / needed(config) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.slow
def test_all_devices_of_a_mesh_together(gradient):
  """Nothing is done twice, or left out of what each device does."""
  function, arguments, config = gradient(experts=True)
  mesh = make_mesh(MeshShape(data=4), simulated_devices(4))
  with activate(Partitioning(mesh)):
    counted = program_flops(function, *arguments)
  assert counted / needed(config) == pytest.approx(1.0, abs=1e-3)


def test_other_ways_to_run_a_product():
  x = jax.ShapeDtypeStruct((6, 5), jnp.float32)
  w = jax.ShapeDtypeStruct((3, 5, 7), jnp.float32)
  sizes = jax.ShapeDtypeStruct((3,), jnp.int32)

  def grouped(x, w, sizes):
    return jax.lax.ragged_dot(x, w, sizes).sum()

  once = 2 * 6 * 5 * 7
  assert program_flops(grouped, x, w, sizes) == once
  # Forward; then one product for the rows and one for the matrices.
  assert program_flops(jax.grad(grouped, (0, 1)), x, w, sizes) == 3 * once

  def twice(x):
    return jnp.tanh(x @ x).sum()

  # Forward, forward again, and the two of the backward pass.
  square = jax.ShapeDtypeStruct((5, 5), jnp.float32)
  again = jax.grad(jax.checkpoint(twice))
  assert program_flops(jax.grad(twice), square) == 3 * 2 * 5**3
  assert program_flops(again, square) == 4 * 2 * 5**3

  def either(x, w, sizes):
    return jax.lax.cond(
      sizes[0] > 0, lambda: x @ w[0], lambda: jnp.zeros((6, 7))
    )

  assert program_flops(either, x, w, sizes) == once


@pytest.mark.parametrize(
  ("kind", "tera"),
  [
    ("TPU v2", 22.5),
    ("TPU v3", 61.5),
    ("TPU v4", 275),
    ("TPU v5 lite", 197),
    ("TPU v5e", 197),
    ("TPU v5", 459),
    ("TPU v5p", 459),
    ("TPU v6 lite", 918),
    ("TPU v6e", 918),
    ("TPU7x", 1153.5),
    ("NVIDIA A100-SXM4-80GB", 312),
    ("NVIDIA A100 80GB PCIe", 312),
    ("NVIDIA H100 80GB HBM3", 989),
    ("NVIDIA H100 PCIe", 756),
    ("NVIDIA H200", 989),
  ],
)
def test_peaks(kind, tera):
  assert peak_flops(kind) == tera * 1e12


@pytest.mark.parametrize(
  "kind", ["cpu", "TPU v4 lite", "TPU v9", "NVIDIA H100", "NVIDIA L4", ""]
)
def test_no_peak_is_guessed(kind):
  assert peak_flops(kind) is None

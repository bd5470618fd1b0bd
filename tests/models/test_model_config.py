import dataclasses
import json

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import (
  ComputeDtype,
  Embeddings,
  ModelConfig,
  StackConfig,
)
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import STATIC

MOE = MoeConfig(
  granularity=STATIC,
  num_experts=5,
  num_selected=2,
  expert_mlp_dim=13,
  dispatch=Dispatch.CAPACITY,
  capacity_factor=None,
  group_size=8,
  balance_loss_weight=0.25,
  z_loss_weight=0.5,
)


@pytest.mark.parametrize(
  ("num_layers", "mlp_dims", "moe", "block_size", "num_blocks"),
  [
    (6, (2048,), None, 1, 6),
    (6, (2048,), MOE, 2, 3),
    (6, (11, 12), MOE, 3, 2),
    (6, (11, 22), None, 2, 3),
    (4, (), MOE, 1, 4),
    (3, [11, 12, 13], None, 3, 1),
  ],
)
def test_blocks(num_layers, mlp_dims, moe, block_size, num_blocks):
  stack = StackConfig(num_layers=num_layers, mlp_dims=mlp_dims, moe=moe)
  assert (stack.block_size, stack.num_blocks) == (block_size, num_blocks)


@pytest.mark.parametrize(
  ("mlp_dims", "moe", "layers"),
  [((11, 12), MOE, [2, 5]), ((), MOE, [0, 1, 2, 3, 4, 5]), ((11,), None, [])],
)
def test_moe_layers_are_the_last_of_each_block(mlp_dims, moe, layers):
  stack = StackConfig(num_layers=6, mlp_dims=mlp_dims, moe=moe)
  assert list(stack.moe_layers) == layers


@pytest.mark.parametrize(
  ("num_layers", "mlp_dims", "moe", "message"),
  [
    (
      5,
      (11,),
      MOE,
      "num_layers=5 is not a multiple of the block's 2 layers (mlp_dims=(11,)"
      " and one MoE layer). Set StackConfig.num_layers or"
      " StackConfig.mlp_dims.",
    ),
    (
      4,
      (11, 12, 13),
      None,
      "num_layers=4 is not a multiple of the block's 3 layers (mlp_dims=(11,"
      " 12, 13)). Set StackConfig.num_layers or StackConfig.mlp_dims.",
    ),
    (
      6,
      (),
      None,
      "num_layers=6 is not a multiple of the block's 0 layers (mlp_dims=())."
      " Set StackConfig.num_layers or StackConfig.mlp_dims.",
    ),
  ],
)
def test_layers_that_are_no_whole_blocks(num_layers, mlp_dims, moe, message):
  with pytest.raises(TaskMoeError) as error:
    StackConfig(num_layers=num_layers, mlp_dims=mlp_dims, moe=moe)
  assert str(error.value) == message


def test_names_become_members(tiny_config):
  config = tiny_config(activation="gated_gelu", embeddings="three")
  assert config.activation is Activation.GATED_GELU
  assert config.embeddings is Embeddings.THREE
  assert config.dtype is ComputeDtype.FLOAT32


@pytest.mark.parametrize(
  ("num_layers", "mlp_dims", "message"),
  [
    (0, (11,), "num_layers=0 is not at least 1. Set StackConfig.num_layers."),
    (2, (11, 0), "mlp_dims=0 is not at least 1. Set StackConfig.mlp_dims."),
  ],
)
def test_stacks_of_nothing(num_layers, mlp_dims, message):
  with pytest.raises(TaskMoeError) as error:
    StackConfig(num_layers=num_layers, mlp_dims=mlp_dims)
  assert str(error.value) == message


@pytest.mark.parametrize(
  "field", ["vocab_size", "embed_dim", "num_heads", "head_dim"]
)
def test_sizes_of_nothing(tiny_config, field):
  with pytest.raises(
    TaskMoeError,
    match=rf"^{field}=0 is not at least 1. Set ModelConfig.{field}",
  ):
    tiny_config(**{field: 0})


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"activation": "swiglu"},
      "unknown activation 'swiglu': accepted are relu, gated_gelu. Set"
      " ModelConfig.activation.",
    ),
    (
      {"embeddings": "tree"},
      "unknown embeddings 'tree': accepted are one, three (did you mean"
      " 'three'?). Set ModelConfig.embeddings.",
    ),
    (
      {"dtype": "float16"},
      "unknown dtype 'float16': accepted are float32, bfloat16 (did you mean"
      " 'bfloat16'?). Set ModelConfig.dtype.",
    ),
    (
      {"dropout_rate": 1.0},
      "dropout_rate=1.0 is outside [0, 1). Set ModelConfig.dropout_rate.",
    ),
    (
      {"dropout_rate": -0.1},
      "dropout_rate=-0.1 is outside [0, 1). Set ModelConfig.dropout_rate.",
    ),
  ],
)
def test_mistakes(tiny_config, changes, message):
  with pytest.raises(TaskMoeError) as error:
    tiny_config(**changes)
  assert str(error.value) == message


@pytest.mark.parametrize(
  ("encoder", "decoder"),
  [
    ("sentence", "static"),
    ("word", "task_then_token"),
    (None, "task"),
    ("token", None),
    (None, None),
  ],
)
def test_json_and_back(tiny_config, encoder, decoder):
  config = tiny_config(
    encoder,
    decoder,
    activation="gated_gelu",
    embeddings="three",
    dropout_rate=0.25,
    dtype="bfloat16",
  )
  again = ModelConfig.from_dict(json.loads(json.dumps(config.to_dict())))
  assert again == config
  assert hash(again) == hash(config)
  assert again.activation is Activation.GATED_GELU
  if decoder == "static":
    assert again.decoder.moe.granularity == STATIC


def test_dict_by_hand():
  stack = StackConfig(num_layers=4, mlp_dims=(11,), moe=MOE)
  config = ModelConfig(
    vocab_size=19,
    embed_dim=14,
    num_heads=2,
    head_dim=3,
    activation=Activation.RELU,
    embeddings=Embeddings.ONE,
    encoder=stack,
    decoder=dataclasses.replace(stack, mlp_dims=(11, 26), moe=None),
  )
  moe = {
    "granularity": "static",
    "num_experts": 5,
    "num_selected": 2,
    "expert_mlp_dim": 13,
    "dispatch": "capacity",
    "capacity_factor": None,
    "group_size": 8,
    "balance_loss_weight": 0.25,
    "z_loss_weight": 0.5,
    "pool_factor": None,
    "refetch": False,
    "second_expert_policy": "all",
    "second_expert_threshold": None,
    "renormalize": "before",
    "jitter": 0.0,
    "balance_bias_rate": 0.0,
    "priority": "order",
    "expert_mask_rate": 0.0,
    "gating_dropout_rate": 0.0,
    "word_table": None,
    "num_candidates": None,
    "has_padding": False,
  }
  assert config.to_dict() == {
    "vocab_size": 19,
    "embed_dim": 14,
    "num_heads": 2,
    "head_dim": 3,
    "activation": "relu",
    "embeddings": "one",
    "encoder": {"num_layers": 4, "mlp_dims": [11], "moe": moe},
    "decoder": {"num_layers": 4, "mlp_dims": [11, 26], "moe": None},
    "dropout_rate": 0.0,
    "dtype": "float32",
    "rematerialize": "none",
  }

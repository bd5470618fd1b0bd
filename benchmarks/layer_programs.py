"""A dense and an MoE layer as programs to be compiled, and their operands."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax import axes
from taskmoe_jax.layers.feed_forward import Activation, FeedForward
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.moe.layer import MoeFeedForward
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.partitioning.rules import Partitioning, activate

DENSE = ("dense", "none")

_WEIGHTS = {"balance": 0.01, "z": 0.001}


@dataclasses.dataclass(frozen=True)
class Setting:
  """Sizes of a layer and of its rows; see the flags of `moe_layer`."""

  embed_dim: int
  mlp_dim: int
  experts: int
  selected: int
  rows: int  # of all devices together
  length: int
  rows_per_task_group: int
  tasks: int
  dtype: str
  train: bool
  capacity_factor: float
  group_size: int
  partitioning: Partitioning

  def moe(self, engine: str, granularity: str) -> MoeFeedForward:
    config = MoeConfig(
      granularity=GRANULARITIES[granularity],
      num_experts=self.experts,
      num_selected=self.selected,
      expert_mlp_dim=self.mlp_dim,
      dispatch=Dispatch(engine),
      capacity_factor=self.capacity_factor,
      group_size=self.group_size,
      balance_loss_weight=_WEIGHTS["balance"],
      z_loss_weight=_WEIGHTS["z"],
      pool_factor=1.25,
    )
    return MoeFeedForward(config, self.tasks, Activation.RELU)

  def dense(self) -> FeedForward:
    return FeedForward(
      self.mlp_dim * self.selected, Activation.RELU, 0.0, jnp.dtype(self.dtype)
    )


def compiled(
  setting: Setting, case: tuple[str, str]
) -> tuple[jax.stages.Compiled, PyTree]:
  """Compiles one case, an engine and a granularity, or `DENSE`.

  Returns:
    The program, and the shapes of its operands, which say where they lie.
  """
  layer = setting.dense() if case == DENSE else setting.moe(*case)
  forward = _mixture if setting.train else _decoding
  if case == DENSE:
    forward = _dense

  def loss(params, x, operands):
    y, routing_loss = forward(setting, layer, params, {**operands, "x": x})
    return jnp.vdot(operands["covector"], y) + routing_loss, y

  # With the output, which the next layer of a model reads.
  def train(params, operands):
    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    return gradient(params, operands["x"], operands)

  def decode(params, operands):
    return forward(setting, layer, params, operands)[0]

  shapes = operand_shapes(setting)
  function = train if setting.train else decode
  with activate(setting.partitioning):
    params = _parameter_shapes(setting, layer, case == DENSE, shapes)
    operands = shapes
    if case[0] in ("auto", "expert_fetch") and not setting.train:
      operands = {**shapes, "fetched": _fetched(setting, layer, params, shapes)}
    built = jax.jit(function).lower(params, operands).compile()
  return built, (params, operands)


def operand_shapes(setting: Setting) -> dict[str, jax.ShapeDtypeStruct]:
  on_rows = setting.partitioning.sharding(axes.ACT_BATCH)
  rows, length, width = setting.rows, setting.length, setting.embed_dim
  return {
    name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=on_rows)
    for name, (shape, dtype) in {
      "x": ((rows, length, width), setting.dtype),
      "covector": ((rows, length, width), setting.dtype),
      "task_ids": ((rows,), jnp.int32),
      "segment_ids": ((rows, length), jnp.int32),
      "task_vectors": ((rows, width), jnp.float32),
    }.items()
  }


def _dense(setting, layer, params, operands):
  y = layer.apply({"params": params}, operands["x"], train=setting.train)
  return y, 0.0


def _mixture(setting, layer, params, operands):
  y, found = layer.apply(
    {"params": params},
    operands["x"],
    _inputs(setting, operands),
    train=setting.train,
    rngs={"dropout": jax.random.key(0)},
  )
  weighted = (
    _WEIGHTS["balance"] * found.balance_loss + _WEIGHTS["z"] * found.z_loss
  )
  return y, weighted


def _decoding(setting, layer, params, operands):
  y = layer.apply(
    {"params": params},
    operands["x"],
    _inputs(setting, operands),
    operands.get("fetched"),
    method="step",
  )
  return y, 0.0


def _inputs(setting: Setting, operands: dict) -> RouterInputs:
  return RouterInputs(
    task_ids=operands["task_ids"],
    segment_ids=operands["segment_ids"],
    task_vectors=operands["task_vectors"],
    rows_per_task_group=setting.rows_per_task_group,
  )


def _fetched(setting, layer, params, shapes) -> PyTree:
  """What a decoding fetches before its first step, which is not measured."""

  def fetch(params, operands):
    inputs = _inputs(setting, operands)
    variables = {"params": params}
    return layer.apply(variables, operands["x"], inputs, method="fetch")

  found = jax.eval_shape(fetch, params, shapes)
  on_rows = setting.partitioning.sharding(axes.ACT_BATCH)
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_rows),
    found,
  )


def _parameter_shapes(setting, layer, dense: bool, shapes) -> PyTree:
  def initialise(key):
    some = {
      name: jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in shapes.items()
    }
    if dense:
      return layer.init(key, some["x"], train=False)["params"]
    inputs = _inputs(setting, some)
    return layer.init(key, some["x"], inputs, train=False)["params"]

  boxed = jax.eval_shape(initialise, jax.random.key(0))
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.value.shape,
      leaf.value.dtype,
      sharding=setting.partitioning.sharding(*leaf.names),
    ),
    boxed,
    is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned),
  )


def runner(
  setting: Setting, program: Callable, shapes: PyTree
) -> Callable[[], Any]:
  """Draws operands of these shapes, and calls the program with them."""
  rng = np.random.default_rng(0)
  params, operands = shapes

  def draw(leaf, scale=1.0):
    values = scale * rng.normal(size=leaf.shape)
    return jax.device_put(jnp.asarray(values, leaf.dtype), leaf.sharding)

  groups = setting.rows // setting.rows_per_task_group
  of_groups = rng.permutation(setting.tasks)[np.arange(groups) % setting.tasks]
  tasks = np.repeat(of_groups, setting.rows_per_task_group).astype(np.int32)
  vectors = rng.normal(size=(setting.tasks, setting.embed_dim))
  given = {
    "task_ids": tasks,
    "segment_ids": np.ones((setting.rows, setting.length), np.int32),
    "task_vectors": vectors[tasks].astype(np.float32),
  }
  params = jax.tree.map(lambda leaf: draw(leaf, leaf.shape[-2] ** -0.5), params)
  values = {
    name: jax.device_put(given[name], leaf.sharding)
    if name in given
    else jax.tree.map(draw, leaf)
    for name, leaf in operands.items()
  }
  return lambda: program(params, values)

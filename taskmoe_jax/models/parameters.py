"""Parameters: abstract shapes, axes, counts, and the layout for decoding."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.rules import Partitioning

# Matrices that layers cast to the dtype they compute in. What is left, norms,
# routers and position biases, is computed in float32.
_CAST = {"query", "key", "value", "out", "wi", "wi_1", "wo"}
_TABLES = {"embedding", "decoder_embedding", "softmax"}


def unrolled(params: PyTree, config: ModelConfig) -> PyTree:
  """Splits a decoder's stacked blocks, and casts matrices once.

  An unrolled `Transformer` computes the same with them as the scanned one does
  with `params`, but need not slice and cast at every step.

  Args:
    params: Parameters of a scanned `Transformer`, without boxes.
    config: The model's config.
  """

  def cast(path, leaf):
    # A file's arrays become the device's here, and not in every call.
    leaf = jnp.asarray(leaf)
    names = [entry.key for entry in path]
    if names[-1] in _CAST or names[0] in _TABLES:
      return leaf.astype(jnp.dtype(config.dtype))
    return leaf

  params = jax.tree_util.tree_map_with_path(cast, params)
  decoder = dict(params["decoder"])
  blocks = decoder.pop("blocks")
  for i in range(config.decoder.num_blocks):
    decoder[f"block_{i}"] = jax.tree.map(
      functools.partial(_slice_block, i), blocks
    )
  return {**params, "decoder": decoder}


def _slice_block(index: int, stack: jax.Array) -> jax.Array:
  """One block's slice of a stack, sharded as the stack is."""
  sharding = getattr(stack, "sharding", None)
  if not isinstance(sharding, NamedSharding):
    return stack[index]
  spec = PartitionSpec(*sharding.spec[1:])
  return _slicer(NamedSharding(sharding.mesh, spec))(stack, index)


@functools.cache
def _slicer(sharding: NamedSharding) -> Callable[[Array, int], Array]:
  """Slices arrays with this sharding; one program for all blocks of a shape."""
  return jax.jit(
    lambda stack, index: jax.lax.dynamic_index_in_dim(
      stack, index, keepdims=False
    ),
    out_shardings=sharding,
  )


def abstract_params(model: Transformer) -> PyTree:
  """Shapes and logical axes of the parameters, at no cost in memory.

  Returns:
    A tree of boxed `jax.ShapeDtypeStruct`s: `nn.unbox` gives the shapes,
    `logical_axes` the axes.
  """
  return jax.eval_shape(initializer(model), jax.random.key(0))


def logical_axes(boxed: PyTree) -> PyTree:
  """The logical axes of each parameter, as tuples of names."""
  return jax.tree.map(lambda leaf: tuple(leaf.names), boxed, is_leaf=is_boxed)


def parameter_count(boxed: PyTree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(boxed)))


def parameter_shardings(boxed: PyTree, partitioning: Partitioning) -> PyTree:
  """Shardings of parameters; errors name an axis that does not divide."""

  def sharding(path, leaf):
    name = "/".join(str(key.key) for key in path)
    return partitioning.parameter_sharding(name, leaf.value.shape, leaf.names)

  return jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=is_boxed)


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Shapes with their shardings."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def initializer(model: Transformer) -> Callable:
  tokens = jnp.zeros((1, 1), jnp.int32)
  batch = {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": tokens,
    "decoder_loss_weights": jnp.zeros((1, 1), jnp.float32),
  }
  task_ids = jnp.zeros((1,), jnp.int32)
  return lambda key: model.init(key, batch, task_ids, train=False)["params"]


def is_boxed(leaf: Any) -> bool:
  return isinstance(leaf, nn.Partitioned)

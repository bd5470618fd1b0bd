"""Parameters as decoding reads them: every decoder block has its own."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from taskmoe_jax.models.config import ModelConfig

# Matrices that layers cast to the dtype they compute in. What is left, norms,
# routers and position biases, is computed in float32.
_CAST = {"query", "key", "value", "out", "wi", "wi_1", "wo"}
_TABLES = {"embedding", "decoder_embedding", "softmax"}


def unrolled(params: PyTree, config: ModelConfig) -> PyTree:
  """Takes a decoder's blocks apart, and casts matrices once and for all.

  What an unrolled `Transformer` computes with them is what the scanned one
  computes with `params`; it only need not cut and cast at every step.

  Args:
    params: Of a scanned `Transformer`, without boxes.
    config: Its own.
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
    decoder[f"block_{i}"] = jax.tree.map(functools.partial(_cut, i), blocks)
  return {**params, "decoder": decoder}


def _cut(index: int, stack: jax.Array) -> jax.Array:
  """One block's part of a stack, which lies on a mesh as the stack does."""
  sharding = getattr(stack, "sharding", None)
  if not isinstance(sharding, NamedSharding):
    return stack[index]
  spec = PartitionSpec(*sharding.spec[1:])
  return _cutter(NamedSharding(sharding.mesh, spec))(stack, index)


@functools.cache
def _cutter(sharding: NamedSharding) -> Callable[[Array, int], Array]:
  """Cuts out what lies so; one program for all blocks of one shape."""
  return jax.jit(
    lambda stack, index: jax.lax.dynamic_index_in_dim(
      stack, index, keepdims=False
    ),
    out_shardings=sharding,
  )

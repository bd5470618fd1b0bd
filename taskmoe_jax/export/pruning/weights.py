"""A model without some of its experts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from taskmoe_jax.export.extract import slice_experts
from taskmoe_jax.export.pruning.choosing import Kept
from taskmoe_jax.models.config import ModelConfig, StackConfig

# Padding is chosen by no bias either.
_NEVER = -1e9


def prune(
  params: PyTree, config: ModelConfig, kept: Kept
) -> tuple[PyTree, ModelConfig]:
  """Takes away experts, and their columns of the routers.

  A router of the pruned model chooses the K best of the experts that are left;
  the gates of K > 1 sum to 1 as before. Where the chosen ones are all left,
  nothing changes.

  The blocks of a stack are scanned, so all have the same number of experts:
  where they keep different numbers, those with fewer are filled up with zeros,
  which no token chooses.

  Args:
    params: Of the mixture; not changed.
    config: Of the mixture.
    kept: Ids of each block's experts, by stack; other stacks stay as they are.
  """
  params = dict(params)
  for name, blocks in kept.items():
    stack: StackConfig = getattr(config, name)
    place = f"layer_{stack.block_size - 1}"
    weights = dict(params[name])
    layers = dict(weights["blocks"])
    layer = dict(layers[place])
    count = max(map(len, blocks))
    has_padding = any(len(ids) < count for ids in blocks)
    layer["moe"] = _without(layer["moe"], blocks, count, has_padding)
    weights["blocks"] = {**layers, place: layer}
    params[name] = weights
    moe = dataclasses.replace(
      stack.moe, num_experts=count, has_padding=has_padding
    )
    stack = dataclasses.replace(stack, moe=moe)
    config = dataclasses.replace(config, **{name: stack})
  return params, config


def _without(
  moe: PyTree, blocks: list[np.ndarray], count: int, has_padding: bool
) -> PyTree:
  chosen = np.stack([np.resize(ids, count) for ids in blocks])
  small = slice_experts(moe, chosen)
  if not has_padding:
    return small
  sizes = np.array([len(ids) for ids in blocks])
  real = jnp.asarray(np.arange(count) < sizes[:, None])
  experts = {
    name: jnp.where(real[:, :, None, None], weights, 0.0)
    for name, weights in small["experts"].items()
  }
  router = dict(small["router"])
  router["table"] = jnp.where(real[:, None], router["table"], 0.0)
  if "balance_bias" in router:
    router["balance_bias"] = jnp.where(real, router["balance_bias"], _NEVER)
  router["is_expert"] = real.astype(jnp.float32)
  return {"experts": experts, "router": router}

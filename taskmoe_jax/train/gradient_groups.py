"""Norms of the gradients of each group of parameters."""

import collections
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

_EMBEDDINGS = {"embedding", "decoder_embedding", "softmax"}


def gradient_norms(gradients: PyTree) -> dict[str, Float[Array, ""]]:
  """The norm of each group's gradients, before clipping, in float32.

  The groups, of those that there are: `embeddings`, `routers`, `experts`, and
  `encoder` and `decoder`, which are all the rest of each stack. Every parameter
  is in one of them, so that the squares add up to that of the global norm.
  Routers and experts stand apart because they are what diverges or starves by
  itself in a mixture of experts.
  """
  groups = collections.defaultdict(list)
  for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
    group = parameter_group([key.key for key in path])
    groups[group].append(leaf.astype(jnp.float32))
  return {name: optax.tree.norm(groups[name]) for name in sorted(groups)}


def parameter_group(path: Sequence[str]) -> str:
  """The group of the parameter that has this path."""
  if path[0] in _EMBEDDINGS:
    return "embeddings"
  if "router" in path or "task_table" in path:
    return "routers"
  return "experts" if "experts" in path else path[0]

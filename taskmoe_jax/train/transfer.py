"""Parameters of one model, taken for another: fine-tuning and upcycling.

A layer takes what the layer of the same number has, however the two models
arrange layers in blocks. Experts take a dense layer's feed-forward, each the
whole of it (sparse upcycling, arXiv 2212.05055): as gates sum to 1, the
mixture then computes what the dense model does, until they begin to differ.
Routers and vectors of tasks have nothing to take and stay as they were drawn.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.train.checksums import path_name

_DRAWN = ("router", "task_table")


class Transferred(NamedTuple):
  """Parameters, and the paths of those that were taken."""

  params: PyTree
  taken: tuple[str, ...]


def transfer(
  source: PyTree,
  source_model: ModelConfig,
  target: PyTree,
  target_model: ModelConfig,
  include: str,
) -> Transferred:
  """Puts parameters of a source in the places of a target's.

  Args:
    source: Of another model.
    source_model: That model.
    target: Freshly drawn.
    target_model: Theirs.
    include: A regular expression; a parameter of the target is taken if it is
      found in its path, such as `decoder/blocks/layer_1/moe/experts/wi`.

  Raises:
    TaskMoeError: The source lacks a parameter, or has it in another shape.
  """
  for name in ("encoder", "decoder"):
    here = getattr(target_model, name).num_layers
    there = getattr(source_model, name).num_layers
    if here != there:
      raise TaskMoeError(
        f"the {name} of INITIAL_RUN has {there} layers, and this one {here}."
        " Set StackConfig.num_layers, or INITIAL_RUN to another run."
      )
  taken = []

  def fill(path, drawn):
    name = path_name(path)
    if not re.search(include, name):
      return drawn
    keys = tuple(name.split("/"))
    found = (
      _of_layers(source, source_model, keys, target_model)
      if keys[1:2] == ("blocks",)
      else _at(source, keys)
    )
    if found is None and any(word in keys for word in _DRAWN):
      return drawn
    if found is None or found.shape != drawn.shape:
      there = "missing" if found is None else f"of shape {list(found.shape)}"
      raise TaskMoeError(
        f"parameter {name} is {there} in INITIAL_RUN, and of shape"
        f" {list(drawn.shape)} here. Set MODEL to the same sizes, or"
        " INITIAL_INCLUDE to a regular expression that leaves it out."
      )
    taken.append(name)
    return found.astype(drawn.dtype)

  params = jax.tree_util.tree_map_with_path(fill, target)
  if not taken:
    raise TaskMoeError(
      f"INITIAL_INCLUDE={include!r} is found in no parameter's path, such as"
      " decoder/final_norm/scale. Set it to '' for all."
    )
  return Transferred(params, tuple(taken))


def _of_layers(
  source: PyTree,
  source_model: ModelConfig,
  keys: tuple[str, ...],
  target_model: ModelConfig,
) -> jax.Array | None:
  """The parameter of all layers at one place of the target's blocks."""
  name, _, layer, *rest = keys
  here, there = getattr(target_model, name), getattr(source_model, name)
  place = int(layer.removeprefix("layer_"))
  layers = []
  for number in range(place, here.num_layers, here.block_size):
    block, place_there = divmod(number, there.block_size)
    of_layer = source[name]["blocks"][f"layer_{place_there}"]
    found = _at(of_layer, tuple(rest))
    if found is not None:
      layers.append(found[block])
      continue
    if rest[:2] != ["moe", "experts"]:
      return None
    dense = _at(of_layer, ("mlp", *rest[2:]))
    if dense is None:
      return None
    experts = here.moe.num_experts
    layers.append(jnp.broadcast_to(dense[block], (experts, *dense.shape[1:])))
  return jnp.stack(layers)


def _at(tree: Mapping, keys: tuple[str, ...]) -> jax.Array | None:
  for key in keys:
    if not isinstance(tree, Mapping) or key not in tree:
      return None
    tree = tree[key]
  return tree

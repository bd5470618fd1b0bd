"""Starts a run from the parameters of another one."""

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.runs.checkpoint_items import path_name
from taskmoe_jax.runs.directory import Run, load_run
from taskmoe_jax.runs.restoring import restore_params
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.step.state import TrainState

_DRAWN = ("router", "task_table")


class Transferred(NamedTuple):
  """Parameters, and the paths of those that were taken from the other run."""

  params: PyTree
  taken: tuple[str, ...]


def transfer(
  source: PyTree,
  source_model: ModelConfig,
  target: PyTree,
  target_model: ModelConfig,
  include: str,
) -> Transferred:
  """Replaces parameters of a target by those of a source.

  Args:
    source: The parameters of another model.
    source_model: The config of that model.
    target: Freshly initialized parameters.
    target_model: The config of their model.
    include: A regular expression; a parameter of the target is taken from the
      source if this is found in its path, such as
      `decoder/blocks/layer_1/moe/experts/wi`.

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
    experts = here.require_moe().num_experts
    layers.append(jnp.broadcast_to(dense[block], (experts, *dense.shape[1:])))
  return jnp.stack(layers)


def _at(tree: PyTree, keys: tuple[str, ...]) -> jax.Array | None:
  for key in keys:
    if not isinstance(tree, Mapping) or key not in tree:
      return None
    tree = tree[key]
  return tree


@dataclasses.dataclass(frozen=True, kw_only=True)
class InitialParameters:
  """Parameters of a checkpoint of another run, to start from.

  Step and optimizer start fresh. See `transfer` for models that differ.

  Attributes:
    run_dir: That run's directory; None initializes all parameters.
    step: The step of its checkpoint; the newest unless given.
    include: A regular expression that is searched in paths of parameters; those
      in which it is not found are initialized.
  """

  run_dir: str | None
  step: int | None
  include: str

  def fill(
    self,
    state: TrainState,
    run: Run,
    program: Program,
    say: Callable[[str], None],
  ) -> TrainState:
    """Replaces initialized parameters, and says which.

    Raises:
      TaskMoeError: The other run does not fit; the message says why.
    """
    if self.run_dir is None:
      return state
    other = load_run(self.run_dir)
    self._check_vocabulary(run, other)
    boxed = parameters.abstract_params(
      Transformer(other.model, len(other.task_space.tasks))
    )
    shapes = parameters.with_shardings(
      nn.unbox(boxed),
      parameters.parameter_shardings(boxed, program.partitioning),
    )
    source, step = restore_params(self.run_dir, shapes, self.step)
    if run.task_space.tasks != other.task_space.tasks:
      # Rows of these tables are tasks.
      for name in ("encoder", "decoder"):
        source[name].pop("task_table", None)
    move = functools.partial(
      transfer,
      source_model=other.model,
      target_model=run.model,
      include=self.include,
    )
    taken = ()

    def build(source, target):
      nonlocal taken
      params, taken = move(source, target=target)
      return params

    params = jax.jit(build, out_shardings=program.shardings.params)(
      source, state.params
    )
    total = len(jax.tree.leaves(params))
    say(
      f"{len(taken)} of {total} parameters are those of step {step} in"
      f" {self.run_dir}; the others are initialized, and the optimizer starts"
      " fresh"
    )
    return dataclasses.replace(state, params=params)

  def _check_vocabulary(self, run: Run, other: Run) -> None:
    if run.vocabulary.checksum != other.vocabulary.checksum:
      raise TaskMoeError(
        f"INITIAL_RUN={self.run_dir!r} has another vocabulary, of"
        f" {len(other.vocabulary)} pieces where this one has"
        f" {len(run.vocabulary)}: its tables are of other words. Set VOCABULARY"
        f" to {self.run_dir}/vocabulary.model."
      )

"""What training changes: step, parameters, optimizer state."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.train import optimizers


@flax.struct.dataclass
class TrainState:
  """State of a run after `step` steps.

  There is no random state: the keys of a step are made from the run's seed and
  the step alone, so that they depend neither on the mesh nor on interruptions.

  The same tree holds the shapes or the shardings of a state.

  Attributes:
    step: A scalar, int32.
    params: Unboxed.
    optimizer_state: See `train.optimizers`.
    skipped: How many of the steps updated nothing, because their loss or their
      gradients were not finite; a scalar, int32.
  """

  step: Any
  params: PyTree
  optimizer_state: PyTree
  skipped: Any


def abstract_params(model: Transformer) -> PyTree:
  """Shapes and logical axes of the parameters, at no cost in memory.

  Returns:
    A tree of boxed `jax.ShapeDtypeStruct`s: `nn.unbox` gives the shapes,
    `logical_axes` the axes.
  """
  return jax.eval_shape(_initialiser(model), jax.random.key(0))


def logical_axes(boxed: PyTree) -> PyTree:
  """The logical axes of each parameter, as tuples of names."""
  return jax.tree.map(lambda leaf: tuple(leaf.names), boxed, is_leaf=_is_boxed)


def parameter_count(boxed: PyTree) -> int:
  return sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(boxed)))


def parameter_shardings(boxed: PyTree, partitioning: Partitioning) -> PyTree:
  """Where each parameter lies; an error names an axis that does not divide."""

  def sharding(path, leaf):
    name = "/".join(str(key.key) for key in path)
    return partitioning.parameter_sharding(name, leaf.value.shape, leaf.names)

  return jax.tree_util.tree_map_with_path(sharding, boxed, is_leaf=_is_boxed)


def stacked_axes(boxed: PyTree) -> PyTree:
  """How many leading axes of each parameter stack matrices (`optimizers`)."""
  return jax.tree.map(
    lambda leaf: optimizers.num_stacked_axes(leaf.names),
    boxed,
    is_leaf=_is_boxed,
  )


def state_shardings(
  boxed: PyTree, optimizer: optimizers.Optimizer, partitioning: Partitioning
) -> TrainState:
  """Where the step, the parameters and the optimizer's state lie."""
  names = optimizers.state_axes(optimizer, nn.unbox(boxed), logical_axes(boxed))
  return TrainState(
    partitioning.replicated,
    parameter_shardings(boxed, partitioning),
    jax.tree.map(
      lambda axes: partitioning.sharding(*axes), names, is_leaf=_is_names
    ),
    partitioning.replicated,
  )


def abstract_state(
  boxed: PyTree, optimizer: optimizers.Optimizer, shardings: TrainState
) -> TrainState:
  """Shapes, dtypes and shardings of the state: what a restore fills."""
  shapes = nn.unbox(boxed)
  state = TrainState(
    jax.ShapeDtypeStruct((), jnp.int32),
    shapes,
    jax.eval_shape(optimizer.transformation.init, shapes),
    jax.ShapeDtypeStruct((), jnp.int32),
  )
  return with_shardings(state, shardings)


def with_shardings(shapes: PyTree, shardings: PyTree) -> PyTree:
  """Shapes that also say where they lie."""
  return jax.tree.map(
    lambda leaf, sharding: jax.ShapeDtypeStruct(
      leaf.shape, leaf.dtype, sharding=sharding
    ),
    shapes,
    shardings,
  )


def initial_state(
  model: Transformer,
  optimizer: optimizers.Optimizer,
  shardings: TrainState,
  seed: int,
) -> TrainState:
  """Draws the parameters, each device only its own part of them."""
  initialise = _initialiser(model)

  def build(key):
    params = nn.unbox(initialise(key))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optimizer.transformation.init(params), zero)

  return jax.jit(build, out_shardings=shardings)(jax.random.key(seed))


def _initialiser(model: Transformer) -> Callable:
  tokens = jnp.zeros((1, 1), jnp.int32)
  batch = {
    "encoder_input_tokens": tokens,
    "decoder_input_tokens": tokens,
    "decoder_loss_weights": jnp.zeros((1, 1), jnp.float32),
  }
  task_ids = jnp.zeros((1,), jnp.int32)
  return lambda key: model.init(key, batch, task_ids, train=False)["params"]


def _is_boxed(leaf: Any) -> bool:
  return isinstance(leaf, nn.Partitioned)


def _is_names(leaf: Any) -> bool:
  return type(leaf) is tuple and all(
    name is None or isinstance(name, str) for name in leaf
  )

"""What training changes: step, parameters, optimizer state."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.models.parameters import (
  initializer,
  is_boxed,
  logical_axes,
  parameter_shardings,
  with_shardings,
)
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.train import optimizers


@flax.struct.dataclass
class TrainState:
  """State of a run after `step` steps.

  It has no random state: the keys of a step are made from the run's seed and
  the step alone, so that they depend neither on the mesh nor on interruptions.

  The same tree holds the shapes or the shardings of a state.

  Attributes:
    step: A scalar, int32.
    params: Unboxed.
    optimizer_state: That of the optax transformation, see `train.optimizers`.
    skipped: Number of steps that updated nothing, because their loss or their
      gradients were not finite; a scalar, int32.
  """

  step: Any
  params: PyTree
  optimizer_state: PyTree
  skipped: Any


def stacked_axes(boxed: PyTree) -> PyTree:
  """How many leading axes of each parameter stack matrices (`optimizers`)."""
  return jax.tree.map(
    lambda leaf: optimizers.num_stacked_axes(leaf.names),
    boxed,
    is_leaf=is_boxed,
  )


def state_shardings(
  boxed: PyTree, optimizer: optimizers.Optimizer, partitioning: Partitioning
) -> TrainState:
  """Where the step, the parameters and the optimizer's state lie."""
  params = nn.unbox(boxed)
  shapes = jax.eval_shape(optimizer.transformation.init, params)
  names = optimizers.state_axes(shapes, params, logical_axes(boxed))
  return TrainState(
    partitioning.replicated,
    parameter_shardings(boxed, partitioning),
    jax.tree.map(lambda _, axes: partitioning.sharding(*axes), shapes, names),
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


def initial_state(
  model: Transformer,
  optimizer: optimizers.Optimizer,
  shardings: TrainState,
  seed: int,
) -> TrainState:
  """Draws the parameters, each device only its part of them."""
  initialize = initializer(model)

  def build(key):
    params = nn.unbox(initialize(key))
    zero = jnp.zeros((), jnp.int32)
    return TrainState(zero, params, optimizer.transformation.init(params), zero)

  return jax.jit(build, out_shardings=shardings)(jax.random.key(seed))

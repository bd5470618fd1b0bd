"""Optimizers that see a stack of matrices as its matrices.

Our layers are scanned and our experts batched: one array `[layer, expert, D,
F]` holds what an unstacked model keeps in many matrices. optax's Adafactor
works array by array (it clips the update by the array's root mean square,
scales the step by the weights' root mean square, and factors the two largest
axes, whatever they are), so it would train a scanned model otherwise than the
same model unscanned, and let one expert's large gradient shrink the others'
steps. Here every matrix of a stack has its own optimizer, by `jax.vmap`.

Any other optax transformation works as well: bind it as OPTIMIZER (see
`make_optimizer`), or wrap it in `per_matrix` if it does not treat every number
alike. Its state may have any shape; `state_axes` says where it lies on a mesh.
"""

import enum
import inspect
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import PyTree

from taskmoe_jax import axes
from taskmoe_jax.errors import TaskMoeError, as_member

LogicalAxes = tuple[str | None, ...]


class MomentDtype(enum.StrEnum):
  """The dtype of a first moment: the second is always float32.

  A step changes a mean with decay 0.9 by a tenth, which bfloat16 can tell; one
  with decay 0.999 by a thousandth, which it rounds away.
  """

  FLOAT32 = "float32"
  BFLOAT16 = "bfloat16"


class Optimizer(NamedTuple):
  """A transformation of gradients, and its learning rate by step to log.

  Without a schedule, reports say no learning rate.
  """

  transformation: optax.GradientTransformation
  schedule: optax.Schedule | None = None


OptimizerMaker = Callable[
  ..., Optimizer | optax.GradientTransformation | optax.MultiSteps
]


def make_optimizer(
  make: OptimizerMaker, stacked_axes: PyTree[int]
) -> Optimizer:
  """Calls the function that a recipe binds as OPTIMIZER.

  It may be one of this module, of optax, such as `@optax.lion`, or of a module
  of yours; it returns an `Optimizer` or a bare optax transformation.

  Args:
    make: The function, with its arguments bound by gin.
    stacked_axes: By `num_stacked_axes`; handed on if the function has a
      parameter of this name.

  Raises:
    TaskMoeError: It returned something else.
  """
  accepts = "stacked_axes" in inspect.signature(make).parameters
  made = make(stacked_axes=stacked_axes) if accepts else make()
  if isinstance(made, Optimizer):
    return made
  if not (hasattr(made, "init") and hasattr(made, "update")):
    raise TaskMoeError(
      f"OPTIMIZER returned {made!r}, which is neither an optax transformation"
      " nor a taskmoe_jax.train.optimizers.Optimizer. Set OPTIMIZER to a"
      " function that returns one, such as @optimizers.adafactor or"
      " @optax.lion."
    )
  return Optimizer(made)


def num_stacked_axes(logical_axes: LogicalAxes) -> int:
  """Counts the leading axes, of layers or experts, that stack matrices.

  An `expert` axis after others, as in the router's `[layer, embed, expert]`,
  belongs to the matrix.
  """
  for position, name in enumerate(logical_axes):
    if name not in (axes.LAYER, axes.EXPERT, axes.FETCHED_EXPERT):
      return position
  return len(logical_axes)


def adafactor(
  learning_rate: optax.Schedule,
  *,
  parameter_scale: bool,
  momentum: float | None = None,
  moment_dtype: MomentDtype | str = MomentDtype.FLOAT32,
  clip_global_norm: float | None = None,
  stacked_axes: PyTree[int] | None = None,
) -> Optimizer:
  """Adafactor (Shazeer and Stern 2018), as GShard and the paper used it.

  The second moment is factored into rows and columns and decays with
  1 - t^-0.8; updates are clipped at a root mean square of 1.0 for each matrix.
  A parameter with fewer than two sides of 128 or more, as attention's `[embed,
  heads, kv]`, is not factored: that costs memory, not quality.

  Args:
    learning_rate: From `schedules`, which says what goes with what.
    parameter_scale: Whether steps are relative to the root mean square of the
      matrix they change (T5), or absolute.
    momentum: Decay of the running mean of updates; none saves memory.
    moment_dtype: Dtype of the running mean of updates, see `MomentDtype`.
    clip_global_norm: Gradients are scaled down to this norm, taken over all
      parameters, before anything else.
    stacked_axes: How many leading axes of each parameter stack matrices, by
      `num_stacked_axes`; none means that nothing is stacked.

  Raises:
    TaskMoeError: `momentum` or `clip_global_norm` is out of its range.
  """
  if momentum is not None and not 0 < momentum < 1:
    raise TaskMoeError(
      f"momentum={momentum} is not between 0 and 1. Set adafactor.momentum, or"
      " leave it None for no momentum."
    )
  matrix = optax.adafactor(
    learning_rate,
    multiply_by_parameter_scale=parameter_scale,
    clipping_threshold=1.0,
    decay_rate=0.8,
    momentum=momentum,
    dtype_momentum=_moment_dtype("adafactor", moment_dtype),
  )
  clipping = _clipping("adafactor", clip_global_norm)
  return Optimizer(
    optax.chain(clipping, per_matrix(matrix, stacked_axes)), learning_rate
  )


def adamw(
  learning_rate: optax.Schedule,
  *,
  b1: float,
  b2: float,
  eps: float,
  weight_decay: float = 0.0,
  moment_dtype: MomentDtype | str = MomentDtype.FLOAT32,
  clip_global_norm: float | None = None,
  stacked_axes: PyTree[int] | None = None,
) -> Optimizer:
  """Adam with decoupled weight decay (Loshchilov and Hutter 2019).

  Weights decay in matrices only: the scale of a norm, a vector once unstacked,
  has no reason to be near zero.

  Args:
    learning_rate: From `schedules` or optax.
    b1: Decay of the running mean of gradients.
    b2: Decay of the running mean of their squares.
    eps: Added to the root of the second moment.
    weight_decay: Times the learning rate, what a weight loses each step.
    moment_dtype: Dtype of the running mean of gradients, see `MomentDtype`.
    clip_global_norm: As in `adafactor`.
    stacked_axes: As in `adafactor`.

  Raises:
    TaskMoeError: `clip_global_norm` is not positive.
  """
  matrix = optax.adamw(
    learning_rate,
    b1=b1,
    b2=b2,
    eps=eps,
    weight_decay=weight_decay,
    mu_dtype=_moment_dtype("adamw", moment_dtype),
    mask=lambda params: jax.tree.map(lambda x: x.ndim > 1, params),
  )
  clipping = _clipping("adamw", clip_global_norm)
  return Optimizer(
    optax.chain(clipping, per_matrix(matrix, stacked_axes)), learning_rate
  )


def state_axes(
  state: PyTree, params: PyTree, logical_axes: PyTree[LogicalAxes]
) -> PyTree[LogicalAxes]:
  """Names the logical axes of an optimizer's state, to place it on a mesh.

  An array belongs to a parameter if its path in the state contains that of the
  parameter, as the moments of optax and the states of `per_matrix` do. If it
  has the parameter's shape, it takes its axes. If it begins like the stack of
  the parameter's matrices, as rows, columns and counts of each matrix do, it
  keeps the names of the stack, and so lies beside its experts. All other axes
  and arrays are replicated on every device.

  Args:
    state: Shapes of the state of any optax transformation.
    params: Arrays or their shapes.
    logical_axes: A tuple of names for each parameter.

  Returns:
    A tuple of names for each array of the state.
  """
  owners: dict[tuple, _Owner] = {}

  def note(path, param, names):
    owners[path] = param.shape, names

  jax.tree_util.tree_map_with_path(note, params, logical_axes)

  def axes_of(path, array) -> LogicalAxes:
    shape, names = _owner(path, owners)
    if array.shape == shape:
      return names
    stack = names[: num_stacked_axes(names)]
    if array.shape[: len(stack)] != shape[: len(stack)]:
      stack = ()
    return stack + (None,) * (array.ndim - len(stack))

  return jax.tree_util.tree_map_with_path(axes_of, state)


_Owner = tuple[tuple[int, ...], LogicalAxes]


def _owner(path: tuple, owners: Mapping[tuple, _Owner]) -> _Owner:
  """Shape and axes of the parameter whose path is within this path.

  The longest, and of those the last: labels above it may have any name.
  """
  for length in range(len(path), 0, -1):
    for begin in range(len(path) - length, -1, -1):
      if found := owners.get(path[begin : begin + length]):
        return found
  return (), ()


def _moment_dtype(owner: str, name: MomentDtype | str) -> jnp.dtype:
  member = as_member(MomentDtype, "moment_dtype", name, f"{owner}.moment_dtype")
  return jnp.dtype(member.value)


def _clipping(owner: str, norm: float | None) -> optax.GradientTransformation:
  if norm is None:
    return optax.identity()
  if not norm > 0:
    raise TaskMoeError(
      f"clip_global_norm={norm} is not above 0. Set {owner}.clip_global_norm,"
      " or leave it None for no clipping."
    )
  return optax.clip_by_global_norm(norm)


def per_matrix(
  inner: optax.GradientTransformation, stacked: PyTree[int] | None
) -> optax.GradientTransformation:
  """Gives every matrix of every parameter its own `inner`.

  The state has the parameters' tree, with the matrix's own optax state at each
  leaf, stacked like the parameter.

  Args:
    inner: The transformation of one matrix.
    stacked: How many leading axes of each parameter stack matrices; None means
      that nothing is stacked.
  """

  def depths(params):
    if stacked is None:
      return jax.tree.map(lambda _: 0, params)
    return stacked

  def init(params):
    return jax.tree.map(
      lambda param, depth: _vmap(inner.init, depth)(param),
      params,
      depths(params),
    )

  def update(grads, states, params):
    pairs = jax.tree.map(
      lambda grad, depth, *rest: _vmap(inner.update, depth)(grad, *rest),
      grads,
      depths(grads),
      states,
      params,
    )
    updates = jax.tree.map(lambda _, pair: pair[0], grads, pairs)
    states = jax.tree.map(lambda _, pair: pair[1], grads, pairs)
    return updates, states

  return optax.GradientTransformation(init, update)


def _vmap(function, depth: int):
  for _ in range(depth):
    function = jax.vmap(function)
  return function

"""The feed-forward network, dense or one of many experts.

Its mathematics is written once, for weights with any leading axes: `[D, F]`
dense, `[E, D, F]` experts, `[G, K, D, F]` experts fetched for groups of rows.
"""

import enum
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from taskmoe_jax import axes
from taskmoe_jax.layers.noise import Dropout
from taskmoe_jax.layers.projections import matrix_product, scaled_normal
from taskmoe_jax.partitioning.rules import constrain


class Activation(enum.StrEnum):
  """Nonlinearity between the two matrices.

  Both are exact in the engines that serve sub-networks; erf-GELU and SwiGLU are
  not everywhere (docs/design/engines.md).
  """

  RELU = "relu"
  GATED_GELU = "gated_gelu"  # tanh-GELU of `wi` times the linear branch `wi_1`

  @property
  def num_inputs(self) -> int:
    """How many input matrices there are."""
    return 1 if self is Activation.RELU else 2

  def __call__(self, *hidden: jax.Array) -> jax.Array:
    if self is Activation.RELU:
      return jax.nn.relu(hidden[0])
    return _gated_gelu(*hidden)


@jax.checkpoint
def _gated_gelu(x: jax.Array, linear: jax.Array) -> jax.Array:
  """Saves only its inputs for the backward pass, not six intermediates."""
  return jax.nn.gelu(x, approximate=True) * linear


@flax.struct.dataclass
class FeedForwardWeights:
  """Input matrices `[..., D, F]` (two when gated) and output `[..., F, D]`.

  `take` and the engines in `moe` treat the leading axis as experts. The same
  tree also holds facts about such arrays, such as their shardings.
  """

  wi: tuple[Any, ...]
  wo: Any

  def astype(self, dtype: jnp.dtype) -> "FeedForwardWeights":
    return jax.tree.map(lambda w: w.astype(dtype), self)

  def take(self, experts: jax.Array) -> "FeedForwardWeights":
    """Takes experts from the leading axis."""
    return jax.tree.map(
      lambda w: jnp.take(w, experts, axis=0, mode="clip"), self
    )


def feed_forward_weights(
  module: nn.Module,
  leading: dict[str, int],
  embed_dim: int,
  mlp_dim: int,
  activation: Activation,
  dtype: jnp.dtype,
  logical_axes: tuple[str | None, str | None] = (axes.EMBED, axes.MLP),
) -> FeedForwardWeights:
  """Declares the parameters `wi` (`wi_1`) and `wo` on a Linen module.

  Args:
    module: The module that owns them.
    leading: Logical names and sizes of leading axes, `{"expert": E}` or none.
    embed_dim: D.
    mlp_dim: F.
    activation: Decides whether there is a second input matrix.
    dtype: What the weights are cast to for computing; they are stored in
      float32.
    logical_axes: The logical axes of D and F.
  """
  names, sizes = tuple(leading.keys()), tuple(leading.values())

  def declare(name, fan_in, fan_out, matrix_axes):
    value = module.param(
      name,
      scaled_normal(fan_in**-0.5, names + matrix_axes),
      (*sizes, fan_in, fan_out),
      jnp.float32,
    )
    return value.astype(dtype)

  inputs = ("wi", "wi_1")[: activation.num_inputs]
  return FeedForwardWeights(
    wi=tuple(
      declare(name, embed_dim, mlp_dim, logical_axes) for name in inputs
    ),
    wo=declare("wo", mlp_dim, embed_dim, logical_axes[::-1]),
  )


class FeedForward(nn.Module):
  """`wo · activation(wi · x)`, without biases."""

  mlp_dim: int
  activation: Activation
  dropout_rate: float
  dtype: jnp.dtype

  @nn.compact
  def __call__(
    self, x: Float[Array, "B L D"], *, train: bool
  ) -> Float[Array, "B L D"]:
    weights = feed_forward_weights(
      self, {}, x.shape[-1], self.mlp_dim, self.activation, self.dtype
    )
    hidden = self.activation(*(matrix_product(x, wi) for wi in weights.wi))
    hidden = constrain(hidden, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_MLP)
    hidden = Dropout(self.dropout_rate)(hidden, train=train)
    y = matrix_product(hidden, weights.wo)
    return constrain(y, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)

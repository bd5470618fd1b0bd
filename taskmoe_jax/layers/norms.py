"""Root-mean-square layer normalization."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from taskmoe_jax import axes
from taskmoe_jax.layers.projections import with_axes


class RMSNorm(nn.Module):
  """Scales vectors to unit root mean square: no mean, no bias, as in T5.

  Without mean and bias, with eps 1e-6, as in the engines that serve
  sub-networks. Computed in float32 for any input dtype.
  """

  epsilon: float = 1e-6

  @nn.compact
  def __call__(self, x: Float[Array, "*b D"]) -> Float[Array, "*b D"]:
    scale = self.param(
      "scale",
      with_axes(nn.initializers.ones, (axes.EMBED,)),
      (x.shape[-1],),
      jnp.float32,
    )
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    normed = wide * jax.lax.rsqrt(mean_square + self.epsilon)
    scaled = normed * jnp.broadcast_to(scale, x.shape)
    return scaled.astype(x.dtype)

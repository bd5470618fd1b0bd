"""Balancing without a loss (Wang et al., arXiv 2408.15664).

A bias of each expert is added to the probabilities when experts are chosen, and
nowhere else: gates and gradients do not know of it. After each step it grows
for experts that had less than the mean load, and shrinks for those that had
more, so that a layer becomes even without a loss that pulls at the model.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float


def balanced_bias(
  bias: Float[Array, "*layers E"], load: Float[Array, "*layers E"], rate: float
) -> Float[Array, "*layers E"]:
  """Returns `bias + rate · sign(mean load - load)` (algorithm 1 of the paper).

  The load is that of the whole batch, over all devices, so that the bias does
  not depend on the mesh.
  """
  mean = jnp.mean(load, axis=-1, keepdims=True)
  return bias + rate * jnp.sign(mean - load)

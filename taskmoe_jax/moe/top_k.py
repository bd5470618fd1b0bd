"""The K largest of a few values, without a sort."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Beyond this many passes a sort is the cheaper way.
_MOST_PASSES = 4


def top_k(
  values: Float[Array, "*b E"], k: int
) -> tuple[Float[Array, "*b K"], Int[Array, "*b K"]]:
  """Returns the K largest values, largest first, and where they stand.

  For small K by K passes of argmax: `jax.lax.top_k` sorts all E, which for a
  router's 32 scores a token costs more than the experts do (the TPU compiler
  says 20 ms for 8192 tokens on a v3 core, against 0.1 ms). Nor has this a
  scatter in its gradient. Ties go to the lower index.
  """
  if k > _MOST_PASSES:
    return jax.lax.top_k(values, k)
  found, indices, left = [], [], values
  for _ in range(k):
    index = jnp.argmax(left, axis=-1).astype(jnp.int32)
    here = jax.nn.one_hot(index, values.shape[-1], dtype=bool)
    found.append(jnp.sum(jnp.where(here, values, 0), axis=-1))
    indices.append(index)
    left = jnp.where(here, -jnp.inf, left)
  return jnp.stack(found, axis=-1), jnp.stack(indices, axis=-1)

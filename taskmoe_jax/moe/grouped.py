"""The grouped feed-forward: each expert takes its own stretch of the rows.

The best known way differs by platform. TPU: megablox, JAX's Pallas kernel.
`jax.lax.ragged_dot` costs E dense products on a CPU, and on a TPU its weight
gradient does; there we group by ourselves (`grouped_cpu`). GPU: `ragged_dot`.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe import grouped_cpu
from taskmoe_jax.partitioning.rules import device_kind, platform

# Rows, contracted width and output width of a tile. Wide tiles matter most: the
# default of 128 each reads the weights several times over
# (docs/design/decisions.md, Traps).
_TPU_TILE = (512, 1024, 1024)


# Whose kernels multiply float32 only.
_NO_BFLOAT16 = ("TPU v2", "TPU v3")


def grouped_feed_forward(
  x: Float[Array, "n D"],
  group_sizes: Int[Array, "E"],
  weights: FeedForwardWeights,
  activation: Activation,
) -> Float[Array, "n D"]:
  """`wo_e · activation(wi_e · x)` with each row's own expert e.

  Args:
    x: Rows sorted by expert. Rows past the last group belong to nobody: what
      comes out for them must not be read, and moves no gradient.
    group_sizes: How many rows each expert has.
    weights: In float32; cast to the dtype of `x` here.
    activation: Between the matrices.
  """
  if platform() == "cpu":
    return grouped_cpu.grouped_feed_forward(x, group_sizes, weights, activation)
  if platform() == "tpu":
    return _on_tpu(x, group_sizes, weights, activation)
  weights = weights.astype(x.dtype)
  hidden = activation(
    *(jax.lax.ragged_dot(x, wi, group_sizes) for wi in weights.wi)
  )
  return jax.lax.ragged_dot(hidden, weights.wo, group_sizes)


def _on_tpu(
  x: Float[Array, "n D"],
  group_sizes: Int[Array, "E"],
  weights: FeedForwardWeights,
  activation: Activation,
) -> Float[Array, "n D"]:
  dtype = x.dtype
  if device_kind() in _NO_BFLOAT16:
    x = x.astype(jnp.float32)
  # Imported here, since importing Pallas takes a second that others need not
  # wait for.
  from jax.experimental.pallas.ops.tpu import megablox

  num_rows = x.shape[0]
  rows = min(_TPU_TILE[0], -(-num_rows // 8) * 8)
  x = jnp.pad(x, ((0, -num_rows % rows), (0, 0)))

  def product(left, right):
    tile = (
      rows,
      *(min(t, s) for t, s in zip(_TPU_TILE[1:], right.shape[1:], strict=True)),
    )
    return megablox.gmm(
      left,
      right.astype(left.dtype),
      group_sizes,
      preferred_element_type=left.dtype,
      tiling=tile,
    )

  hidden = activation(*(product(x, wi) for wi in weights.wi))
  return product(hidden, weights.wo)[:num_rows].astype(dtype)

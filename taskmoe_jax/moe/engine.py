"""What all engines share: their output, and how they run on a mesh."""

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float

from taskmoe_jax import axes
from taskmoe_jax.layers.feed_forward import FeedForwardWeights
from taskmoe_jax.partitioning.rules import active


@flax.struct.dataclass
class EngineOutput:
  """The mixed output of the experts, and which choices were served.

  Attributes:
    y: `sum_k gate_k · FFN_k(x)`; any finite value for padding.
    kept: Which choices were served, None if all were; undefined for padding.
  """

  y: Float[Array, "B L D"]
  kept: Bool[Array, "B L K"] | None


def num_expert_shards() -> int:
  """X, the number of devices over which the experts are spread."""
  partitioning = active()
  return partitioning.mesh.shape[axes.EXPERT_MESH] if partitioning else 1


def sum_over_width(y: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
  """Sums the partial results of the devices along `model`, over F."""
  return jax.lax.psum(y, axes.MODEL_MESH) if active() else y


def run_on_devices(
  function: Callable,
  rows: Any,
  weights: FeedForwardWeights,
  *,
  expert_axis: str,
  mlp_axis: str,
  out_specs: Any = None,
) -> Any:
  """Calls `function(rows, weights)` on every device with its part of both.

  Without a mesh that is the function itself. On one, it moves data between
  devices by explicit collectives, and none is inferred: with XLA's, a gather by
  index sooner or later becomes an all-gather of all activations. The width of
  the model is not split; under FSDP it is gathered before.

  Args:
    function: Returns arrays of its rows, the same along the `model` axis unless
      `out_specs` says otherwise.
    rows: A tree of arrays of rows.
    weights: The weights of all experts.
    expert_axis: Logical axis of E.
    mlp_axis: Logical axis of F.
    out_specs: How the results are sharded.
  """
  partitioning = active()
  if partitioning is None:
    return function(rows, weights)
  of_rows = partitioning.spec((axes.ACT_BATCH,))
  expert, _, mlp = partitioning.spec((expert_axis, None, mlp_axis))
  of_weights = PartitionSpec(expert, None, mlp), PartitionSpec(expert, mlp)
  return jax.shard_map(
    lambda rows, weights: function(rows, FeedForwardWeights(*weights)),
    mesh=partitioning.mesh,
    in_specs=(of_rows, of_weights),
    out_specs=of_rows if out_specs is None else out_specs,
    # Our kernels and gradients do not declare along which axes they vary.
    check_vma=False,
  )(rows, (weights.wi, weights.wo))

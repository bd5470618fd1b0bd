"""What all engines share: what they return, and how they run on a mesh."""

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
class Dispatched:
  """The mixed output of the experts, and what became of the choices.

  Attributes:
    y: `sum_k gate_k · FFN_k(x)`; of padding it may be anything finite.
    kept: Which choices were served; None if all were. Of padding it may be
      anything.
  """

  y: Float[Array, "B L D"]
  kept: Bool[Array, "B L K"] | None


def num_expert_shards() -> int:
  """X, over how many devices the experts are spread."""
  partitioning = active()
  return partitioning.mesh.shape[axes.EXPERT_MESH] if partitioning else 1


def sum_over_width(y: Float[Array, "B L D"]) -> Float[Array, "B L D"]:
  """Adds up what the devices along `model` made of their parts of F."""
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
  devices by collectives that it names, and none is left to be inferred: left to
  XLA, a gather by index becomes an all-gather of all activations sooner or
  later. The width of the model is whole; under FSDP it is gathered before.

  Args:
    function: Returns arrays of its rows, the same along the `model` axis unless
      `out_specs` says otherwise.
    rows: A tree of arrays of rows.
    weights: Of all experts.
    expert_axis: Logical axis of E.
    mlp_axis: Logical axis of F.
    out_specs: How what it returns lies on the mesh.
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
    # Neither kernels nor gradients of our own say along what they vary.
    check_vma=False,
  )(rows, (weights.wi, weights.wo))

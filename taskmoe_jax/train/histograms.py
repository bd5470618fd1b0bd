"""How the numbers of large arrays are spread, counted where the arrays lie."""

import functools
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from taskmoe_jax.train.hooks import Hook, Moment

_BINS = 40


@flax.struct.dataclass
class Histogram:
  """Counts of numbers between edges, and their sums.

  Arrays of NumPy once they have been fetched from the devices.

  Attributes:
    counts: How many numbers are in each bin.
    edges: Of the bins; the least and the greatest number are the outermost.
    total: Sum of the numbers.
    squares: Sum of their squares.
  """

  counts: Float[Array | np.ndarray, "bins"]
  edges: Float[Array | np.ndarray, "edges"]
  total: Float[Array | np.ndarray, ""]
  squares: Float[Array | np.ndarray, ""]

  @classmethod
  def of(cls, numbers: jax.Array) -> "Histogram":
    """Counts the finite ones, into bins of one width."""
    numbers = numbers.astype(jnp.float32).reshape(-1)
    finite = jnp.isfinite(numbers)
    numbers = jnp.where(finite, numbers, 0.0)
    counts, edges = jnp.histogram(
      numbers, bins=_BINS, weights=finite.astype(jnp.float32)
    )
    return cls(counts, edges, numbers.sum(), jnp.square(numbers).sum())

  @property
  def root_mean_square(self) -> float:
    return float(np.sqrt(self.squares / max(self.counts.sum(), 1.0)))

  def raw(self) -> dict[str, Any]:
    """As `tensorboardX.SummaryWriter.add_histogram_raw` takes it."""
    return {
      "min": float(self.edges[0]),
      "max": float(self.edges[-1]),
      "num": float(self.counts.sum()),
      "sum": float(self.total),
      "sum_squares": float(self.squares),
      "bucket_limits": [float(edge) for edge in self.edges[1:]],
      "bucket_counts": [float(count) for count in self.counts],
    }


class ParameterHistograms(Hook):
  """Reports every so many steps how each parameter's numbers are spread.

  `parameters/<path>` is a histogram, and `parameters/<path>/rms` the root of
  their mean square, a number by which a parameter that grows without end shows.
  """

  def __init__(self, every_steps: int):
    self._every_steps = every_steps

  def after_step(self, moment: Moment) -> None:
    if moment.done % self._every_steps == 0:
      moment.report |= parameter_report(moment.state.params)


def parameter_report(params: PyTree) -> dict[str, Histogram | float]:
  """What `ParameterHistograms` reports of these parameters."""
  found: Mapping[str, Histogram] = jax.device_get(_histograms(params))
  report = {}
  for path, histogram in found.items():
    report[f"parameters/{path}"] = histogram
    report[f"parameters/{path}/rms"] = histogram.root_mean_square
  return report


@functools.partial(jax.jit)
def _histograms(params: PyTree) -> dict[str, Histogram]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(params)
  return {
    "/".join(str(key.key) for key in path): Histogram.of(leaf)
    for path, leaf in leaves
  }

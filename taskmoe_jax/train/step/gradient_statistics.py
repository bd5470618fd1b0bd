"""Norms and histograms of large arrays, computed on their devices."""

import collections
from collections.abc import Mapping, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, PyTree

_EMBEDDINGS = {"embedding", "decoder_embedding", "softmax"}


def gradient_norms(gradients: PyTree) -> dict[str, Float[Array, ""]]:
  """The norm of each group's gradients, before clipping, in float32.

  The groups, where present: `embeddings`, `routers`, `experts`, and `encoder`
  and `decoder`, which are the rest of each stack. Every parameter is in one of
  them, so that the squares add up to that of the global norm. Routers and
  experts are separate because in a mixture of experts they can diverge or
  starve on their own.
  """
  groups = collections.defaultdict(list)
  for path, leaf in jax.tree_util.tree_flatten_with_path(gradients)[0]:
    group = parameter_group([key.key for key in path])
    groups[group].append(leaf.astype(jnp.float32))
  return {name: optax.tree.norm(groups[name]) for name in sorted(groups)}


def parameter_group(path: Sequence[str]) -> str:
  """The group of the parameter that has this path."""
  if path[0] in _EMBEDDINGS:
    return "embeddings"
  if "router" in path or "task_table" in path:
    return "routers"
  return "experts" if "experts" in path else path[0]


_BINS = 40


@flax.struct.dataclass
class Histogram:
  """Counts of numbers between edges, and their sums.

  Arrays of NumPy once they have been fetched from the devices.

  Attributes:
    counts: How many numbers are in each bin.
    edges: Edges of the bins; the outermost are the minimum and the maximum.
    total: Sum of the numbers.
    squares: Sum of their squares.
  """

  counts: Float[Array | np.ndarray, "bins"]
  edges: Float[Array | np.ndarray, "edges"]
  total: Float[Array | np.ndarray, ""]
  squares: Float[Array | np.ndarray, ""]

  @classmethod
  def of(cls, numbers: jax.Array) -> "Histogram":
    """Counts the finite numbers, into bins of equal width."""
    numbers = numbers.astype(jnp.float32).reshape(-1)
    finite = jnp.isfinite(numbers)
    numbers = jnp.where(finite, numbers, 0.0)
    counts, edges = jnp.histogram(
      numbers, bins=_BINS, weights=finite.astype(jnp.float32)
    )
    return cls(counts, edges, numbers.sum(), jnp.square(numbers).sum())

  @classmethod
  def empty(cls) -> "Histogram":
    zero = jnp.zeros(())
    return cls(jnp.zeros(_BINS), jnp.zeros(_BINS + 1), zero, zero)

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


def histograms_of(tree: PyTree) -> dict[str, Histogram]:
  """A histogram of each array, by its path `decoder/final_norm/scale`."""
  return {path: Histogram.of(leaf) for path, leaf in _by_path(tree).items()}


def histograms_every(
  every_steps: int | None, done: Int[Array, ""], tree: PyTree
) -> dict[str, Histogram]:
  """`histograms_of` inside a compiled step, counted only when they are due.

  At other steps they are empty; if none are ever due the result is empty.

  Args:
    every_steps: Steps between them; None for never.
    done: Steps done in all.
    tree: Such as gradients, which leave a step in no other way.
  """
  if every_steps is None:
    return {}
  return jax.lax.cond(
    done % every_steps == 0,
    histograms_of,
    lambda tree: {path: Histogram.empty() for path in _by_path(tree)},
    tree,
  )


def _by_path(tree: PyTree) -> dict[str, jax.Array]:
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {"/".join(str(key.key) for key in path): leaf for path, leaf in leaves}


def histogram_report(
  name: str, found: Mapping[str, Histogram]
) -> dict[str, Histogram | float]:
  """Each as `name/<path>`, and `name/<path>/rms`, the root of its mean square.

  The latter shows a parameter that grows without bound.
  """
  report = {}
  for path, histogram in jax.device_get(found).items():
    report[f"{name}/{path}"] = histogram
    report[f"{name}/{path}/rms"] = histogram.root_mean_square
  return report

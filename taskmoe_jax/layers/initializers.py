"""Parameters with logical axes and the initial scales of T5."""

from collections.abc import Callable

from flax import linen as nn


def scaled_normal(
  scale: float, logical_axes: tuple[str | None, ...]
) -> Callable:
  """Normal initialiser of standard deviation `scale`, boxed with its axes.

  T5 sets the deviation by hand (fan-in^-0.5, with d_kv folded into queries),
  since attention divides by nothing; a library's fan-in rule would also count
  the `expert` and `layer` axes.
  """
  return nn.with_logical_partitioning(
    nn.initializers.normal(scale), logical_axes
  )

"""Distributions as inline SVG, such as the lengths of sentences."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from taskmoe_jax.pages.curves import curves
from taskmoe_jax.pages.markup import Html

Values = Sequence[float] | Float[np.ndarray, "_"]

BINS = 50


def histogram(
  series: Mapping[str, Values],
  *,
  title: str,
  x_name: str,
  weights: Mapping[str, Values] | None = None,
  largest: float | None = None,
) -> Html:
  """Draws the outlines of up to four histograms, all over the same bins.

  The height of a bin is the sum of the weights of its values.

  Args:
    series: Values, by the name in the legend; values above `largest` are not
      counted.
    title: What a screen reader says.
    x_name: What the horizontal axis shows.
    weights: One for each value, by the same names; unless given, a series'
      bins sum to 1 (less what lies above `largest`).
    largest: Where the bins end; the largest value unless given. They start at
      0.
  """
  arrays = {name: np.asarray(v, np.float64) for name, v in series.items()}
  end = max((a.max(initial=0.0) for a in arrays.values()), default=0.0)
  edges = np.linspace(0.0, (end if largest is None else largest) or 1.0, BINS)
  outlines = {}
  for name, values in arrays.items():
    if weights is None:
      shares = np.full(len(values), 1 / max(len(values), 1))
    else:
      shares = np.asarray(weights[name], np.float64)
    heights, _ = np.histogram(values, bins=edges, weights=shares)
    outlines[name] = [
      (float(edges[0]), 0.0),
      *(
        (float(edge), float(height))
        for index, height in enumerate(heights)
        for edge in edges[index : index + 2]
      ),
      (float(edges[-1]), 0.0),
    ]
  return curves(outlines, title=title, x_name=x_name)

"""Trees of what is alike, as inline SVG."""

import numpy as np
from jaxtyping import Float

from taskmoe_jax.pages.markup import Html, element

_WIDTH = 160


def dendrogram(
  merges: Float[np.ndarray, "_ 4"], order: list[int], *, row: int
) -> tuple[Html, int]:
  """Draws a tree whose leaves are rows of a height, from the top down.

  A branch joins its two the further right the less alike they are, from
  distance 0 at the left edge to 1 at the right one.

  Args:
    merges: As `scipy.cluster.hierarchy.linkage` gives them, with distances of
      at most 1.
    order: Which leaf is in which row.
    row: Pixels of a row.

  Returns:
    Markup, and how many pixels wide it is.
  """
  ends = {leaf: (0.0, row * (place + 0.5)) for place, leaf in enumerate(order)}
  drawn = []
  for number, (first, second, distance, _) in enumerate(merges):
    (x1, y1), (x2, y2) = ends[int(first)], ends[int(second)]
    x = round(4 + (_WIDTH - 8) * min(distance, 1.0), 1)
    ends[len(order) + number] = (x, (y1 + y2) / 2)
    drawn.append(
      element(
        "path",
        element("title", f"distance {distance:.3f}"),
        d=f"M {x1} {y1} H {x} V {y2} H {x2}",
        fill="none",
        stroke="var(--ink)",
      )
    )
  return Html("".join(drawn)), _WIDTH

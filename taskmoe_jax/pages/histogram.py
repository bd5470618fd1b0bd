"""A histogram as inline SVG, such as the lengths of sentences."""

import math
from collections.abc import Sequence

from taskmoe_jax.pages.markup import Html, element

_WIDTH, _HEIGHT = 900, 260
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 12, 40
_MOST_LINES = 8


def histogram(
  edges: Sequence[float], shares: Sequence[float], *, title: str, x_name: str
) -> Html:
  """Draws a bar for each bin, its height the bin's share.

  Args:
    edges: Where the bins begin, and where the last one ends; ascending.
    shares: The share of each bin, from 0 to 1; what lies beyond the last edge
      is not drawn, so they may sum to less than 1.
    title: Said to those who cannot see it.
    x_name: What the horizontal axis shows.
  """
  x_step = _step(edges[-1] - edges[0])
  y_step = _step(max(shares))
  top = y_step * math.ceil(round(max(shares) / y_step, 6))
  wide = (_WIDTH - _LEFT - _RIGHT) / (edges[-1] - edges[0])
  high = (_HEIGHT - _TOP - _BOTTOM) / top
  bottom = _HEIGHT - _BOTTOM

  def x(value: float) -> float:
    return round(_LEFT + (value - edges[0]) * wide, 1)

  def y(value: float) -> float:
    return round(bottom - value * high, 1)

  grid = []
  for number in range(round(top / y_step) + 1):
    value = round(number * y_step, 12)
    grid += [
      element(
        "line",
        x1=_LEFT,
        x2=_WIDTH - _RIGHT,
        y1=y(value),
        y2=y(value),
        stroke="var(--line)",
      ),
      element(
        "text", f"{value:.4g}", x=_LEFT - 8, y=y(value) + 4, text_anchor="end"
      ),
    ]
  first = math.ceil(edges[0] / x_step)
  for number in range(first, math.floor(edges[-1] / x_step) + 1):
    value = round(number * x_step, 12)
    grid.append(
      element(
        "text", f"{value:,g}", x=x(value), y=bottom + 18, text_anchor="middle"
      )
    )
  return element(
    "svg",
    element("title", title),
    *grid,
    *(
      element(
        "rect",
        element("title", f"{begin:.4g} to {end:.4g}: {share:.2%}"),
        x=x(begin),
        y=y(share),
        width=round(x(end) - x(begin), 1),
        height=round(bottom - y(share), 1),
        fill="var(--bar)",
      )
      for begin, end, share in zip(edges, edges[1:], shares, strict=False)
      if share > 0
    ),
    element("text", x_name, x=_WIDTH / 2, y=_HEIGHT - 4, text_anchor="middle"),
    viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    width=_WIDTH,
    role="img",
    xmlns="http://www.w3.org/2000/svg",
  )


def _step(span: float) -> float:
  """The distance of grid lines: 1, 2 or 5 times a power of ten."""
  span = span or 1.0
  power = 10.0 ** math.floor(math.log10(span / _MOST_LINES))
  return next(
    power * factor
    for factor in (1, 2, 5, 10)
    if span / (power * factor) <= _MOST_LINES
  )

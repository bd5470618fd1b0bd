"""Curves as inline SVG, such as a loss over the steps of a training."""

import math
from collections.abc import Callable, Mapping, Sequence

from taskmoe_jax.pages.markup import Html, element, joined

_WIDTH, _HEIGHT = 900, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 20, 12, 40
_COLOURS = ("bar", "other", "better", "worse")
_MOST_LINES = 8
# A screen shows no more of them.
_MOST_POINTS = 450

Number = float | int
Points = Sequence[tuple[Number, Number]]


def curves(series: Mapping[str, Points], *, title: str, x_name: str) -> Html:
  """Draws curves over one grid, with a legend where there are several.

  Args:
    series: Points in the order of x, by the curve's name; at least one is
      finite. What is not finite is left out.
    title: Said to those who cannot see it.
    x_name: What the horizontal axis shows.
  """
  series = {name: _thinned(points) for name, points in series.items()}
  points = [point for curve in series.values() for point in curve]
  x_grid = _grid([x for x, _ in points])
  y_grid = _grid([0.0, *(y for _, y in points)])

  def x(value: Number) -> float:
    return round(_scaled(value, x_grid, _LEFT, _WIDTH - _RIGHT), 1)

  def y(value: Number) -> float:
    return round(_scaled(value, y_grid, _HEIGHT - _BOTTOM, _TOP), 1)

  drawing = element(
    "svg",
    element("title", title),
    *_axes(x_grid, y_grid, x, y, x_name),
    *(
      element(
        "polyline",
        element("title", name),
        points=" ".join(f"{x(a)},{y(b)}" for a, b in curve),
        fill="none",
        stroke=f"var(--{colour})",
        stroke_width=2,
      )
      for (name, curve), colour in zip(series.items(), _COLOURS, strict=False)
    ),
    viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
    width=_WIDTH,
    role="img",
    xmlns="http://www.w3.org/2000/svg",
  )
  return joined([_legend(list(series)), drawing])


def _legend(names: Sequence[str]) -> Html:
  parts = []
  for name, colour in zip(names, _COLOURS, strict=False):
    parts += [
      element("span", "■", style=f"color: var(--{colour})"),
      f" {name} ",
    ]
  return element("p", *parts, class_="soft")


def _axes(
  x_grid: list[float],
  y_grid: list[float],
  x: Callable[[Number], float],
  y: Callable[[Number], float],
  x_name: str,
) -> list[Html]:
  bottom = _HEIGHT - _BOTTOM
  parts = [
    element("text", x_name, x=_WIDTH / 2, y=_HEIGHT - 4, text_anchor="middle")
  ]
  for value in y_grid:
    parts += [
      element(
        "line",
        x1=_LEFT,
        x2=_WIDTH - _RIGHT,
        y1=y(value),
        y2=y(value),
        stroke="var(--line)",
      ),
      element(
        "text", f"{value:g}", x=_LEFT - 8, y=y(value) + 4, text_anchor="end"
      ),
    ]
  for value in x_grid:
    parts.append(
      element(
        "text", f"{value:,g}", x=x(value), y=bottom + 18, text_anchor="middle"
      )
    )
  return parts


def _scaled(value: Number, grid: list[float], begin: int, end: int) -> float:
  return begin + (value - grid[0]) / (grid[-1] - grid[0]) * (end - begin)


def _grid(values: Sequence[Number]) -> list[float]:
  """Round values around all of them, at distances of 1, 2 or 5 of a power."""
  low, high = min(values), max(values)
  span = (high - low) or abs(high) or 1.0
  power = 10.0 ** math.floor(math.log10(span / _MOST_LINES))
  step = next(
    power * factor
    for factor in (1, 2, 5, 10)
    if span / (power * factor) <= _MOST_LINES
  )
  first = math.floor(low / step)
  last = max(math.ceil(high / step), first + 1)
  return [round(step * number, 12) for number in range(first, last + 1)]


def _thinned(points: Points) -> list[tuple[float, float]]:
  """The finite ones; means of neighbours where there are too many."""
  finite = [(x, y) for x, y in points if math.isfinite(y)]
  size = -(-len(finite) // _MOST_POINTS) or 1
  means = []
  for begin in range(0, len(finite), size):
    group = finite[begin : begin + size]
    x, y = (sum(axis) / len(group) for axis in zip(*group, strict=True))
    means.append((x, y))
  return means

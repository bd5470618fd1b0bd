"""Bars as inline SVG: one for each pair."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from taskmoe_jax.pages.markup import Html, element

_WIDTH = 900
_LEFT = 90
_RIGHT = 120
_ROW = 20
_TOP = 24
# The first of these that gives at most so many grid lines.
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500)
_MOST_LINES = 10


class Bar(NamedTuple):
  """One bar.

  Attributes:
    name: What stands left of it.
    value: Its length; a bar may go left of zero.
    interval: Half of the confidence interval, drawn as a whisker.
    label: What stands right of it.
    colour: `bar`, `other`, `better` or `worse`, see the pages' style.
  """

  name: str
  value: float
  interval: float | None
  label: str
  colour: str


def bars(chart: Sequence[Bar], *, title: str) -> Html:
  """Draws bars from the top down, over a grid from the lowest to the highest.

  Args:
    chart: In the order in which they are drawn.
    title: Said to those who cannot see it.
  """
  ends = [
    bar.value + sign * (bar.interval or 0) for bar in chart for sign in (-1, 1)
  ]
  low, high = min(0.0, *ends), max(0.0, *ends)
  step = next(
    (s for s in _STEPS if (high - low) / s <= _MOST_LINES), _STEPS[-1]
  )
  low, high = step * (low // step), step * -(-high // step) or step
  height = _TOP + _ROW * len(chart) + 8
  scale = (_WIDTH - _LEFT - _RIGHT) / (high - low)

  def x(value: float | int) -> float:
    return round(_LEFT + (value - low) * scale, 1)

  lines = []
  for number in range(round((high - low) / step) + 1):
    value = round(low + number * step, 6)
    lines += [
      _line(x(value), _TOP - 6, x(value), height - 8, stroke="var(--line)"),
      element(
        "text", f"{value:g}", x=x(value), y=_TOP - 10, text_anchor="middle"
      ),
    ]
  drawn = [_bar(bar, x, _TOP + _ROW * index) for index, bar in enumerate(chart)]
  return element(
    "svg",
    element("title", title),
    *lines,
    *drawn,
    viewBox=f"0 0 {_WIDTH} {height}",
    width=_WIDTH,
    role="img",
    xmlns="http://www.w3.org/2000/svg",
  )


def _bar(bar: Bar, x: Callable[[float], float], top: int) -> Html:
  middle = top + _ROW / 2
  begin, end = sorted((x(0.0), x(bar.value)))
  parts = [
    element("title", f"{bar.name}: {bar.label}"),
    element(
      "rect",
      x=begin,
      y=top + 3,
      width=round(max(end - begin, 0.5), 1),
      height=_ROW - 6,
      rx=2,
      fill=f"var(--{bar.colour})",
    ),
    element("text", bar.name, x=_LEFT - 8, y=middle + 4, text_anchor="end"),
  ]
  edge = end
  if bar.interval is not None:
    first, last = x(bar.value - bar.interval), x(bar.value + bar.interval)
    parts += [
      _line(first, middle, last, middle, stroke="var(--ink)"),
      _line(first, middle - 3, first, middle + 3, stroke="var(--ink)"),
      _line(last, middle - 3, last, middle + 3, stroke="var(--ink)"),
    ]
    edge = max(end, last)
  parts.append(element("text", bar.label, x=edge + 6, y=middle + 4))
  return element("g", *parts)


def _line(*ends: float | int, stroke: str) -> Html:
  """A line from `x1, y1` to `x2, y2`."""
  named = dict(zip(("x1", "y1", "x2", "y2"), ends, strict=True))
  return element("line", **named, stroke=stroke)

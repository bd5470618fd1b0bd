"""Matrices as inline SVG, of which only the cells that are not 0 are drawn."""

from collections.abc import Sequence

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


# Pixels. Cells get smaller where there are many, so that all are in view.
_CELL = 18
_SMALLEST = 4
_WIDEST = 760
_CHARACTER = 7
_TOP = 20
# Cells of less than this share of the largest cannot be told from empty ones.
_FAINTEST = 1 / 200


def cell_size(count: int) -> int:
  """Pixels of a cell where so many stand beside each other."""
  return max(_SMALLEST, min(_CELL, _WIDEST // max(count, 1)))


def heat_map(
  values: Float[np.ndarray, "rows columns"],
  rows: Sequence[str],
  columns: Sequence[str],
  *,
  title: str,
  largest: float,
  beside: tuple[Html, int] = (Html(""), 0),
) -> Html:
  """Draws a matrix, each cell the stronger the larger its value is.

  Args:
    values: From 0 up. What is not finite is left empty.
    rows: Their names.
    columns: Their names; only some are written where there are many.
    title: Said to those who cannot see it.
    largest: The value of the strongest colour, so that maps can be compared.
    beside: What is drawn right of it, its origin at the first row's top, and
      how wide that is.
  """
  wide, high = cell_size(len(columns)), cell_size(len(rows))
  left = _CHARACTER * max(map(len, rows)) + 10
  width, height = wide * len(columns), high * len(rows)
  cells = [
    _cell(value, left + wide * column, _TOP + high * row, (wide, high), name)
    for (row, column), value in np.ndenumerate(values / largest)
    if value >= _FAINTEST
    for name in [f"{rows[row]}, {columns[column]}: {values[row, column]:.3f}"]
  ]
  drawing, extra = beside
  whole = (left + width + extra + 8, _TOP + height + 6)
  return element(
    "svg",
    element("title", title),
    element(
      "rect",
      x=left,
      y=_TOP,
      width=width,
      height=height,
      fill="var(--shade)",
      stroke="var(--line)",
    ),
    *cells,
    *_row_names(rows, left, high),
    *_column_names(columns, left, wide),
    element("g", drawing, transform=f"translate({left + width}, {_TOP})"),
    viewBox=f"0 0 {whole[0]} {whole[1]}",
    width=whole[0],
    role="img",
    xmlns="http://www.w3.org/2000/svg",
  )


def _cell(
  share: float, x: int, y: int, size: tuple[int, int], name: str
) -> Html:
  return element(
    "rect",
    element("title", name),
    x=x,
    y=y,
    width=size[0],
    height=size[1],
    fill="var(--bar)",
    fill_opacity=f"{min(share, 1.0):.2f}",
  )


def _row_names(rows: Sequence[str], left: int, high: int) -> list[Html]:
  size = min(12, high)
  return [
    element(
      "text",
      name,
      x=left - 5,
      y=_TOP + high * index + high / 2 + size * 0.35,
      text_anchor="end",
      style=f"font-size: {size}px",
    )
    for index, name in enumerate(rows)
  ]


def _column_names(columns: Sequence[str], left: int, wide: int) -> list[Html]:
  """As many as there is room for, at even distances."""
  room = _CHARACTER * max(map(len, columns)) + 4
  every = -(-room // wide)
  return [
    element(
      "text",
      columns[index],
      x=left + wide * index + wide / 2,
      y=_TOP - 6,
      text_anchor="middle",
    )
    for index in range(0, len(columns), every)
  ]

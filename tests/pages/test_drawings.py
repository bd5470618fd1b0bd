"""Drawings, measured by hand."""

import re

import numpy as np
import pytest

from taskmoe_jax.pages.curves import curves
from taskmoe_jax.pages.heat_map import cell_size, dendrogram, heat_map
from taskmoe_jax.pages.histogram import histogram
from taskmoe_jax.pages.markup import Html

# Of a heat map's cells: what is said of it, and where it is.
CELL = re.compile(
  r"<rect x=\"(\d+)\" y=\"(\d+)\" width=\"(\d+)\" height=\"(\d+)\""
  r" fill=\"var\(--bar\)\" fill-opacity=\"([\d.]+)\"><title>(.*?)</title>"
)


def test_only_cells_that_hold_something_are_drawn():
  drawn = heat_map(
    np.asarray([[0.0, 0.5, np.nan], [0.125, 0.0005, 0.0]]),
    ["d<e", "fr"],
    ["0", "1", "2"],
    title="gates",
    largest=0.5,
    beside=(Html("<path/>"), 50),
  )
  # Names of 3 letters take 3 * 7 + 10 pixels, a line of names 20, a cell 18.
  assert CELL.findall(drawn) == [
    ("49", "20", "18", "18", "1.00", "d&lt;e, 1: 0.500"),
    ("31", "38", "18", "18", "0.25", "fr, 0: 0.125"),
  ]
  # Right of three cells, and within the picture.
  assert '<g transform="translate(85, 20)"><path/></g>' in drawn
  assert 'viewBox="0 0 143 62"' in drawn
  assert "d&lt;e</text>" in drawn


def test_many_cells_are_small_and_some_are_named():
  assert [cell_size(count) for count in (0, 1, 42, 76, 1000)] == [
    18,
    18,
    18,
    10,
    4,
  ]
  names = [str(number) for number in range(76)]
  drawn = heat_map(
    np.zeros((2, 76)), ["a", "b"], names, title="load", largest=1.0
  )
  # Two digits take 18 pixels, and a cell has 10.
  assert re.findall(r">(\d+)</text>", drawn) == names[::2]


def test_a_tree_joins_rows():
  """The first and the last task are alike; the middle one shares nothing.

  The tree has the alike ones beside each other, in rows 0 and 1.
  """
  merges = np.asarray([[0.0, 2.0, 0.25, 2.0], [1.0, 3.0, 1.0, 3.0]])
  drawn, width = dendrogram(merges, [2, 0, 1], row=10)
  assert width == 160
  # From 4 to 156: a quarter is at 42, and the whole at 156.
  assert re.findall(r' d="([^"]*)"', drawn) == [
    "M 0.0 15.0 H 42.0 V 5.0 H 0.0",
    "M 0.0 25.0 H 156.0 V 10.0 H 42.0",
  ]


def test_curves_leave_out_what_is_not_finite():
  drawn = curves(
    {
      "training": [(0, 4.0), (50, float("nan")), (100, 2.0)],
      "validation": [(100, 3.0)],
    },
    title="loss",
    x_name="step",
  )
  # 820 pixels are 100 steps; 248 pixels are 4 nats, from the bottom at 260.
  assert re.findall(r' points="([^"]*)"', drawn) == [
    "60.0,12.0 880.0,136.0",
    "880.0,74.0",
  ]
  assert [">training<" in drawn, ">validation<" in drawn] == [True, True]
  grid = re.findall(r">([\d.,]+)</text>", drawn)
  assert grid == [
    *(f"{half / 2:g}" for half in range(9)),
    *(str(step) for step in range(0, 101, 20)),
  ]


@pytest.mark.parametrize("value", [0.0, 3e5])
def test_a_single_point_has_axes(value):
  drawn = curves({"loss": [(7, value)]}, title="loss", x_name="step")
  assert "nan" not in drawn
  assert "inf" not in drawn


def test_long_curves_are_means_of_neighbours():
  points = [(step, float(step % 2)) for step in range(9000)]
  (drawn,) = re.findall(
    r' points="([^"]*)"', curves({"a": points}, title="", x_name="")
  )
  heights = {point.split(",")[1] for point in drawn.split()}
  assert len(drawn.split()) == 450
  # The axis ends at the largest mean.
  assert heights == {"12.0"}


def test_a_histogram_has_a_bar_for_each_bin_that_holds_something():
  drawn = histogram(
    [0.0, 2.0, 4.0, 8.0], [0.25, 0.0, 0.5], title="lengths", x_name="tokens"
  )
  # 820 pixels are 8 tokens; 208 pixels are a share of 0.5, from the bottom at
  # 220.
  bars = re.findall(
    r'<rect x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"[^>]*>'
    r"<title>(.*?)</title>",
    drawn,
  )
  assert bars == [
    ("60.0", "116.0", "205.0", "104.0", "0 to 2: 25.00%"),
    ("470.0", "12.0", "410.0", "208.0", "4 to 8: 50.00%"),
  ]
  names = re.findall(r">([\d.,]+)</text>", drawn)
  assert names == [
    *("0", "0.1", "0.2", "0.3", "0.4", "0.5"),
    *(str(tokens) for tokens in range(9)),
  ]
  assert ">tokens</text>" in drawn

"""The tables and drawings of `taskmoe data`."""

import pathlib
from collections.abc import Sequence

import numpy as np
import rich.console
import rich.table

from taskmoe_jax.data.text.statistics import (
  PERCENTILES,
  PairStatistics,
  odd_shares,
)
from taskmoe_jax.pages.chart import Bar, bars
from taskmoe_jax.pages.histogram import histogram
from taskmoe_jax.pages.markup import Html, document, element
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary

_PARTS = ("train", "validation", "test")


def pair_table(
  statistics: Sequence[PairStatistics],
  space: TaskSpace,
  lengths: tuple[int, int],
) -> rich.table.Table:
  """Sizes, rates and lengths of each pair."""
  table = rich.table.Table()
  table.add_column("pair")
  table.add_column("task")
  ranks = "/".join(map(str, PERCENTILES))
  for name in (
    *_PARTS,
    "rate",
    f"source p{ranks}",
    f"target p{ranks}",
    "too long",
  ):
    table.add_column(name, justify="right")
  for row in statistics:
    table.add_row(
      row.pair,
      space.task_of_pair(row.pair),
      *(_size(row.sizes, part) for part in _PARTS),
      f"{row.rate:.2%}" if row.rate else "-",
      *(
        "/".join(f"{value:.0f}" for value in side) if len(row.lengths) else "-"
        for side in row.percentiles()
      ),
      f"{row.too_long(*lengths):.2%}" if len(row.lengths) else "-",
    )
  return table


def _size(sizes: dict[str, int | None], part: str) -> str:
  if part not in sizes:
    return "-"
  return "endless" if sizes[part] is None else f"{sizes[part]:,}"


def cleaning_table(statistics: Sequence[PairStatistics]) -> rich.table.Table:
  """What cleaning took away of each pair, and why."""
  cleaned = [(row.pair, row.cleaning) for row in statistics if row.cleaning]
  table = rich.table.Table()
  table.add_column("cleaning")
  _, first_counts = cleaned[0]
  for name in first_counts:
    table.add_column(name.replace("_", " "), justify="right")
  for pair, counts in cleaned:
    table.add_row(pair, *(f"{n:,}" for n in counts.values()))
  return table


def language_table(statistics: Sequence[PairStatistics]) -> rich.table.Table:
  """What the vocabulary lacks of each language."""
  table = rich.table.Table()
  table.add_column("language")
  table.add_column("unknown tokens", justify="right")
  table.add_column("byte tokens", justify="right")
  for language, shares in sorted(odd_shares(statistics).items()):
    table.add_row(language, *(f"{share:.2%}" for share in shares))
  return table


def print_fill(
  console: rich.console.Console, stats: dict[str, int | float], batches: int
) -> None:
  """How full rows are, of some batches."""
  padding = 1 - (stats["source_fill"] + stats["target_fill"]) / 2
  console.print(
    f"rows of the first {batches} batches: {stats['row_fill']:.1%} filled on"
    f" their fuller side (sources {stats['source_fill']:.1%}, targets"
    f" {stats['target_fill']:.1%}), {padding:.1%} padding;"
    f" {stats['examples']:,} examples, {stats['skipped_too_long']:,} too long"
  )


def print_rows(
  console: rich.console.Console,
  batch: dict[str, np.ndarray],
  vocabulary: Vocabulary,
  space: TaskSpace,
  count: int,
) -> None:
  """Some rows of a batch as text, evenly spread over it."""
  size = len(batch["source_language"])
  for row in np.linspace(0, size - 1, min(count, size)).astype(int).tolist():
    pair = "-".join(
      space.languages[batch[name][row]]
      for name in ("source_language", "target_language")
    )
    console.print(f"\nrow {row}: {pair}, task {space.task_of_pair(pair)}")
    sources = _segments(batch, "encoder", "encoder_input_tokens", row)
    targets = _segments(batch, "decoder", "decoder_target_tokens", row)
    for source, target in zip(
      # Its first token is the symbol of the target language.
      vocabulary.decode([ids[1:] for ids in sources]),
      vocabulary.decode(targets),
      strict=True,
    ):
      console.print(f"  <2{pair.split('-')[1]}> {source}", markup=False)
      console.print(f"    -> {target}", markup=False)


def _segments(
  batch: dict[str, np.ndarray], stack: str, tokens: str, row: int
) -> list[list[int]]:
  ids = batch[tokens][row]
  name = f"{stack}_segment_ids"
  segments = batch[name][row] if name in batch else (ids > 0).astype(int)
  return [
    ids[segments == segment].tolist()
    for segment in range(1, int(segments.max()) + 1)
  ]


def plot(
  statistics: Sequence[PairStatistics], folder: pathlib.Path
) -> pathlib.Path:
  """Draws the distributions of lengths and of rates; returns the page's path.

  The page is one HTML file that needs nothing but a browser.
  """
  sampled = [row for row in statistics if len(row.lengths)]
  parts: list[Html] = []
  for side, name in enumerate(("source", "target")):
    edges, shares = _length_shares(sampled, side)
    parts += [
      element("h2", f"{name} lengths"),
      histogram(
        edges,
        shares,
        title=f"share of examples by {name} tokens",
        x_name=f"{name} tokens",
      ),
    ]
  rates = [
    Bar(row.pair, 100 * row.rate, None, f"{row.rate:.2%}", "bar")
    for row in sorted(sampled, key=lambda row: -row.rate)
  ]
  parts += [
    element("h2", "rates, percent of the examples"),
    bars(rates, title="share of examples of each pair, in percent"),
  ]
  folder.mkdir(parents=True, exist_ok=True)
  path = folder / "data.html"
  path.write_text(document("Lengths and rates of the data", *parts))
  return path


def _length_shares(
  sampled: Sequence[PairStatistics], side: int
) -> tuple[list[float], list[float]]:
  """Edges of the bins of a side's lengths, and each bin's share of examples.

  Up to the 99.5th percentile: a few very long examples would squeeze the rest.
  """
  lengths = np.concatenate([row.lengths[:, side] for row in sampled])
  # Each pair by its rate, as training sees it.
  weights = np.concatenate(
    [np.full(len(r.lengths), r.rate / len(r.lengths)) for r in sampled]
  )
  bins = np.linspace(0, max(np.percentile(lengths, 99.5), 2), 50)
  shares, edges = np.histogram(lengths, bins, weights=weights)
  return edges.tolist(), shares.tolist()

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
  cleaned = [row for row in statistics if row.cleaning]
  table = rich.table.Table()
  table.add_column("cleaning")
  for name in cleaned[0].cleaning:
    table.add_column(name.replace("_", " "), justify="right")
  for row in cleaned:
    table.add_row(row.pair, *(f"{n:,}" for n in row.cleaning.values()))
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
  """Some rows of a batch as text, from as many places of it."""
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
) -> list[pathlib.Path]:
  """Draws the distributions of lengths and of rates; returns where they are."""
  import matplotlib.figure

  folder.mkdir(parents=True, exist_ok=True)
  sampled = [row for row in statistics if len(row.lengths)]
  lengths = matplotlib.figure.Figure(figsize=(8, 4), layout="constrained")
  for axes, side, name in zip(
    lengths.subplots(1, 2), (0, 1), ("source", "target"), strict=True
  ):
    values = np.concatenate([row.lengths[:, side] for row in sampled])
    # Each pair by its rate, as training sees it.
    weights = np.concatenate(
      [np.full(len(r.lengths), r.rate / len(r.lengths)) for r in sampled]
    )
    bins = np.linspace(0, max(np.percentile(values, 99.5), 2), 50)
    axes.hist(values, bins=bins, weights=weights)
    axes.set(xlabel=f"{name} tokens", ylabel="share of examples")
  width = max(6, 0.22 * len(statistics))
  rates = matplotlib.figure.Figure(figsize=(width, 4), layout="constrained")
  axes = rates.subplots()
  ordered = sorted(sampled, key=lambda row: -row.rate)
  axes.bar([row.pair for row in ordered], [row.rate for row in ordered])
  axes.tick_params(axis="x", rotation=90)
  axes.set(ylabel="share of examples")
  paths = [folder / "lengths.png", folder / "rates.png"]
  for figure, path in zip((lengths, rates), paths, strict=True):
    figure.savefig(path, dpi=120)
  return paths

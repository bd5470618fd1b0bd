"""Results as a table: on a terminal, and in Markdown."""

from collections.abc import Iterable, Mapping
from typing import Any

import rich.box
import rich.console
import rich.table

from taskmoe_jax.evaluate.groups import GROUPS
from taskmoe_jax.evaluate.metrics import label as metric_label
from taskmoe_jax.evaluate.results import Results, signature_lines


def title(results: Results) -> str:
  return (
    f"{results['model']}, step {results['step']}, {results['text']['name']}"
  )


def settings_line(settings: Mapping[str, Any]) -> str:
  """`beam, size 4, length_penalty 0.8`: what is not set is left out."""
  name, *rest = settings.items()
  return ", ".join(
    [str(name[1]), *(f"{k} {v}" for k, v in rest if v is not None)]
  )


def score_text(row: Mapping[str, Any], metric: str) -> str:
  """A score with half of its confidence interval: `31.24 ± 0.82`."""
  interval = row.get("intervals", {}).get(metric)
  score = f"{row[metric]:.2f}"
  return score if interval is None else f"{score} ± {interval:.2f}"


def group_rows(results: Results) -> list[tuple[str, Mapping[str, Any]]]:
  """The averages with their names, in the order of the tables."""
  averages = results["averages"]
  return [(GROUPS[name], averages[name]) for name in GROUPS if name in averages]


def markdown(results: Results) -> str:
  """Formats results as a Markdown table, averages last, then signatures."""
  metrics = results["scoring"]["metrics"]
  rows = [
    *((row["pair"], row["examples"], row) for row in results["pairs"]),
    *(
      (f"**{name}**", f"{row['pairs']} pairs", row)
      for name, row in group_rows(results)
    ),
  ]
  lines = [
    f"# {title(results)}",
    "",
    f"Text: {results['text']['origin']}.",
    f"Search: {settings_line(results['search'])}.",
    f"{results['tokens']} tokens in {results['seconds']:.1f} s,"
    f" {results['tokens_per_second']:.0f} tokens/s.",
    *warnings(results),
    "",
    f"| pair | examples | {' | '.join(map(metric_label, metrics))} |",
    f"|---|---:|{'---:|' * len(metrics)}",
    *(
      f"| {name} | {examples} |"
      + "".join(f" {score_text(row, metric)} |" for metric in metrics)
      for name, examples, row in rows
    ),
    "",
    *(f"- {line}" for line in signature_lines(results["pairs"])),
  ]
  return "\n".join(lines) + "\n"


def warnings(results: Results) -> list[str]:
  """What a reader must know before believing the scores."""
  cut = sum(row["unfinished"] for row in results["pairs"])
  lines = list(results["notes"])
  if cut:
    lines.append(f"{cut} translations were cut off at the longest length.")
  return lines


def print_results(console: rich.console.Console, results: Results) -> None:
  """Prints a row for each pair and each average, then signatures.

  Only the first metric has its confidence interval here, so that all fit into
  80 columns; the files have them all.
  """
  metrics = results["scoring"]["metrics"]
  table = rich.table.Table(title=title(results), box=rich.box.SIMPLE)
  table.add_column("pair")
  table.add_column("examples", justify="right")
  for metric in metrics:
    table.add_column(metric_label(metric), justify="right", no_wrap=True)
  for row in results["pairs"]:
    table.add_row(row["pair"], str(row["examples"]), *_cells(row, metrics))
  table.add_section()
  for name, row in group_rows(results):
    table.add_row(name, f"{row['pairs']} pairs", *_cells(row, metrics))
  console.print(table)
  for line in warnings(results):
    console.print(line, style="yellow", markup=False, highlight=False)
  for line in signature_lines(results["pairs"]):
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _cells(row: Mapping[str, Any], metrics: Iterable[str]) -> list[str]:
  first, *others = metrics
  return [score_text(row, first), *(f"{row[name]:.2f}" for name in others)]

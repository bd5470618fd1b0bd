"""`taskmoe evaluate --compare A B`: tables and a page of what changed."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import rich.box
import rich.console
import rich.table
from etils import epath

from taskmoe_jax.evaluate import tables
from taskmoe_jax.evaluate.comparison import (
  LEVEL,
  Comparison,
  compare,
  find_results,
)
from taskmoe_jax.evaluate.groups import GROUPS
from taskmoe_jax.evaluate.metrics import label as metric_label
from taskmoe_jax.evaluate.metrics import metric_named
from taskmoe_jax.files import write_whole
from taskmoe_jax.pages.chart import Bar, bars
from taskmoe_jax.pages.markup import (
  Html,
  document,
  element,
  joined,
  marked,
  sentence_table,
  table,
)
from taskmoe_jax.task_space import split_pair

# Sentences on the terminal, of all pairs together.
_PRINTED = 3


def compare_runs(
  first: epath.PathLike,
  second: epath.PathLike,
  *,
  significance: str,
  samples: int,
  out: epath.PathLike | None,
  console: rich.console.Console | None = None,
) -> Comparison:
  """Compares two runs, bundles or folders of results, and shows what changed.

  Args:
    first: A, see `comparison.find_results`.
    second: B.
    significance: `bootstrap` or `randomization`.
    samples: Resamples or trials; 0 for sacrebleu's default.
    out: The folder of the page; `against-A` in the folder of B's results
      unless given.
    console: Where the tables are shown.
  """
  console = console or rich.console.Console()
  first_folder, second_folder = find_results(first, second)
  comparison = compare(
    first_folder,
    second_folder,
    significance=significance,
    samples=samples,
    console=console,
  )
  name = epath.Path(comparison["a"]["model"]).name
  folder = epath.Path(out or second_folder / f"against-{name}")
  folder.mkdir(parents=True, exist_ok=True)
  text = json.dumps(comparison, ensure_ascii=False, indent=2)
  write_whole(folder / "index.html", comparison_page(comparison).encode())
  write_whole(folder / "comparison.json", f"{text}\n".encode())
  print_comparison(console, comparison)
  console.print(f"comparison in {folder}", highlight=False, soft_wrap=True)
  return comparison


def print_comparison(
  console: rich.console.Console, comparison: Comparison
) -> None:
  """Prints the differences of each pair, and what changed most."""
  for line in _about(comparison):
    console.print(line, markup=False, highlight=False, soft_wrap=True)
  first = comparison["metrics"][0]
  shown = rich.table.Table(box=rich.box.SIMPLE)
  columns = [f"{metric_label(first)} A", "B", "B - A", "p"]
  columns += [
    f"{metric_label(name)} B - A" for name in comparison["metrics"][1:]
  ]
  shown.add_column("pair")
  for column in columns:
    shown.add_column(column, justify="right")
  for name, row in _rows(comparison):
    shown.add_row(name, *_cells(row, comparison["metrics"]))
  console.print(shown)
  for kind in ("better", "worse"):
    sentences = _most_changed(comparison, kind)[:_PRINTED]
    if sentences:
      console.print(f"much {kind}", style="bold")
    for pair, sentence in sentences:
      before, after = sentence["chrf"]
      console.print(
        f"{pair} line {sentence['line']}, chrF {before:.1f} → {after:.1f}",
        highlight=False,
      )
      for key in ("source", "reference", "a", "b"):
        console.print(
          f"  {key:>9}  {sentence[key]}", markup=False, highlight=False
        )


def comparison_page(comparison: Comparison) -> str:
  """Makes one page of all differences, to open from disk."""
  metrics = comparison["metrics"]
  chart = [
    Bar(
      row["pair"],
      row["metrics"][metrics[0]]["difference"],
      None,
      _difference_text(row["metrics"][metrics[0]]),
      _judgement(row["metrics"][metrics[0]], metrics[0]) or "line",
    )
    for row in sorted(
      comparison["pairs"],
      key=lambda row: -row["metrics"][metrics[0]]["difference"],
    )
  ]
  columns = ["pair"]
  for metric in metrics:
    columns += [f"{metric_label(metric)} A", "B", "B - A", "p"]
  averages = [name for name in GROUPS if name in comparison["averages"]]
  return document(
    f"{comparison['b']['model']} against {comparison['a']['model']}",
    *(element("p", line, class_="soft") for line in _about(comparison)),
    element("h2", "Averages"),
    table(
      ["", *(c for c in columns[1:] if c != "p")],
      [
        [GROUPS[name], *_page_cells(comparison["averages"][name], metrics)]
        for name in averages
      ],
      sortable=False,
    ),
    element("h2", f"{metric_label(metrics[0])} by pair, B - A"),
    element(
      "p",
      f"Grey: not significant (p ≥ {LEVEL:g}).",
      class_="soft",
    ),
    bars(chart, title=f"Differences of {metric_label(metrics[0])} by pair"),
    element("h2", "Pairs"),
    table(
      columns,
      [
        [row["pair"], *_page_cells(row["metrics"], metrics)]
        for row in comparison["pairs"]
      ],
      sortable=True,
    ),
    element("h2", "Sentences that changed most"),
    joined(_page_sentences(row) for row in comparison["pairs"]),
  )


def _about(comparison: Comparison) -> list[str]:
  lines = [
    f"{side.upper()}: {comparison[side]['model']}, step"
    f" {comparison[side]['step']},"
    f" {tables.settings_line(comparison[side]['search'])}"
    for side in ("a", "b")
  ]
  signature = next(iter(comparison["pairs"][0]["metrics"].values()))[
    "signature"
  ]
  kinds = {"bootstrap": "paired bootstrap"}
  kind = comparison["significance"]
  lines.append(
    f"{comparison['text']['origin']}; p by"
    f" {kinds.get(kind, 'approximate randomisation')} ({signature})"
  )
  return lines


def _rows(comparison: Comparison) -> list[tuple[str, Mapping[str, Any]]]:
  rows = [(row["pair"], row["metrics"]) for row in comparison["pairs"]]
  averages = comparison["averages"]
  return rows + [(GROUPS[n], averages[n]) for n in GROUPS if n in averages]


def _cells(scores: Mapping[str, Any], metrics: Sequence[str]) -> list[str]:
  first, *others = metrics
  score = scores[first]
  return [
    f"{score['a']:.2f}",
    f"{score['b']:.2f}",
    _coloured(score, first),
    f"{score['p']:.4f}" if "p" in score else "",
    *(_coloured(scores[name], name) for name in others),
  ]


def _coloured(score: Mapping[str, Any], metric: str) -> str:
  judgement = _judgement(score, metric)
  text = _difference_text(score)
  if judgement is None:
    return text
  colour = "green" if judgement == "better" else "red"
  return f"[{colour}]{text}[/]"


def _difference_text(score: Mapping[str, Any]) -> str:
  """`+1.20*`: a star where it is significant."""
  star = "*" if _is_significant(score) else ""
  return f"{score['difference']:+.2f}{star}"


def _is_significant(score: Mapping[str, Any]) -> bool:
  return "p" in score and score["p"] < LEVEL and score["difference"] != 0


def _judgement(score: Mapping[str, Any], metric: str) -> str | None:
  """`better` or `worse`, None where chance would explain the difference."""
  if not _is_significant(score):
    return None
  rises = score["difference"] > 0
  falls_are_better = metric_named(metric).lower_is_better
  return "better" if rises != falls_are_better else "worse"


def _page_cells(
  scores: Mapping[str, Any], metrics: Sequence[str]
) -> list[tuple[object, float]]:
  cells: list[tuple[object, float]] = []
  for metric in metrics:
    score = scores[metric]
    text = element(
      "span", _difference_text(score), class_=_judgement(score, metric)
    )
    cells += [
      (f"{score['a']:.2f}", score["a"]),
      (f"{score['b']:.2f}", score["b"]),
      (text, score["difference"]),
    ]
    if "p" in score:
      cells.append((f"{score['p']:.4f}", score["p"]))
  return cells


def _most_changed(
  comparison: Comparison, kind: str
) -> list[tuple[str, Mapping[str, Any]]]:
  found = [
    (row["pair"], sentence)
    for row in comparison["pairs"]
    for sentence in row["sentences"][kind]
  ]
  return sorted(
    found, key=lambda item: -abs(item[1]["chrf"][1] - item[1]["chrf"][0])
  )


def _page_sentences(row: Mapping[str, Any]) -> Html:
  source, target = split_pair(row["pair"])
  parts = []
  for kind in ("better", "worse"):
    if row["sentences"][kind]:
      parts += [
        element("h4", f"Much {kind}"),
        sentence_table(
          ["chrF", f"source ({source})", "A", "B", "reference"],
          [None, source, target, target, target],
          [
            [
              "{:.1f} → {:.1f}".format(*found["chrf"]),
              found["source"],
              marked(found["a"], found["reference"]),
              marked(found["b"], found["reference"]),
              found["reference"],
            ]
            for found in row["sentences"][kind]
          ],
        ),
      ]
  if not parts:
    parts.append(element("p", "No sentence has changed."))
  return element("details", element("summary", row["pair"]), *parts)

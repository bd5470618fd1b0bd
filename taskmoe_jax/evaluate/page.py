"""Results as one HTML page, to open from disk, without a network."""

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from taskmoe_jax.evaluate import tables
from taskmoe_jax.evaluate.metrics import Tokenizer, sacrebleu_flags
from taskmoe_jax.evaluate.metrics import label as metric_label
from taskmoe_jax.evaluate.results import (
  Results,
  read_hypotheses,
  read_text,
  reference_paths,
  sentence_scores_of,
  signature_lines,
)
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

# Sentences shown of each pair, worst and best.
_SHOWN = 5


def results_page(results: Results, folder: epath.Path) -> str:
  """Makes the page of a folder whose texts and records are written already."""
  metrics = results["scoring"]["metrics"]
  columns = ["pair", "examples", *(metric_label(name) for name in metrics)]
  return document(
    tables.title(results),
    _about(results),
    element("h2", "Averages"),
    table(
      ["", "pairs", *columns[2:]],
      [
        [name, row["pairs"], *_cells(row, metrics)]
        for name, row in tables.group_rows(results)
      ],
      sortable=False,
    ),
    element("h2", f"{columns[2]} by pair"),
    pair_chart(results["pairs"], metrics[0]),
    element("h2", "Pairs"),
    table(
      columns,
      [
        [row["pair"], row["examples"], *_cells(row, metrics)]
        for row in results["pairs"]
      ],
      sortable=True,
    ),
    element("h2", "Worst and best sentences"),
    element(
      "p",
      "By chrF of the sentence. What a translation says and its reference does"
      " not is marked.",
      class_="soft",
    ),
    joined(_sentences(folder, row["pair"]) for row in results["pairs"]),
    element("h2", "How it was scored"),
    element(
      "ul", *(element("li", line) for line in signature_lines(results["pairs"]))
    ),
    element("p", "sacrebleu's own command line, in the folder of this page:"),
    element("pre", _commands(results, folder)),
  )


def _about(results: Results) -> Html:
  facts = [
    f"Text: {results['text']['origin']}.",
    f"Search: {tables.settings_line(results['search'])}.",
    f"{results['tokens']:,} tokens in {results['seconds']:.1f} s,"
    f" {results['tokens_per_second']:.0f} tokens/s.",
  ]
  if results["scoring"]["bootstrap"]:
    facts.append("± is half of the 95 % confidence interval.")
  return joined(
    [
      element("p", " ".join(facts), class_="soft"),
      *(element("p", line, class_="note") for line in tables.warnings(results)),
    ]
  )


def _cells(
  row: Mapping[str, Any], metrics: Sequence[str]
) -> list[tuple[str, float]]:
  return [(tables.score_text(row, name), row[name]) for name in metrics]


def pair_chart(rows: Sequence[Mapping[str, Any]], metric: str) -> Html:
  """Draws a bar a pair, best first; into English in a colour of its own."""
  chart = [
    Bar(
      row["pair"],
      row[metric],
      row.get("intervals", {}).get(metric),
      f"{row[metric]:.1f}",
      "bar" if split_pair(row["pair"])[1] == "en" else "other",
    )
    for row in sorted(rows, key=lambda row: -row[metric])
  ]
  legend = element(
    "p",
    element("span", "■", style="color: var(--bar)"),
    " into English   ",
    element("span", "■", style="color: var(--other)"),
    " all others",
    class_="soft",
  )
  return joined([legend, bars(chart, title=f"{metric_label(metric)} by pair")])


def _sentences(folder: epath.Path, pair: str) -> Html:
  scores = sentence_scores_of(folder, pair)
  text, hypotheses = read_text(folder, pair), read_hypotheses(folder, pair)
  order = sorted(range(len(scores)), key=lambda index: (scores[index], index))
  worst = order[:_SHOWN]
  best = [index for index in order[::-1] if index not in worst][:_SHOWN]
  source, target = split_pair(pair)
  references = text.references[0]

  def shown(indices: Sequence[int]) -> Html:
    return sentence_table(
      ["chrF", f"source ({source})", f"translation ({target})", "reference"],
      [None, source, target, target],
      [
        [
          f"{scores[i]:.1f}",
          text.sources[i],
          marked(hypotheses[i], references[i]),
          references[i],
        ]
        for i in indices
      ],
    )

  parts = [element("h4", "Worst"), shown(worst)]
  if best:
    parts += [element("h4", "Best"), shown(best)]
  return element("details", element("summary", pair), *parts)


def _commands(results: Results, folder: epath.Path) -> str:
  """One command for each pair and metric, as sacrebleu takes them."""
  scoring = results["scoring"]
  lines = []
  for row in results["pairs"]:
    pair = row["pair"]
    number = len(read_text(folder, pair).references)
    paths = [path.name for path in reference_paths(folder, pair, number)]
    for metric in scoring["metrics"]:
      flags = sacrebleu_flags(
        metric, split_pair(pair)[1], Tokenizer(scoring["tokenizer"])
      )
      if flags is None:
        continue
      if scoring["bootstrap"]:
        flags += ["--confidence", f"--confidence-n={scoring['bootstrap']}"]
      words = ["sacrebleu", *paths, "-i", f"{pair}.hyp.txt", *flags, "-w", "4"]
      lines.append(" ".join(words))
  return "\n".join(lines)

"""Writes scores down: `results.json`, `results.md`, and every translation.

A folder of results looks so:

  results.json      all there is to know about the run of an evaluation
  results.md        the same as a table
  de-en.src.txt     the sources, one sentence per line
  de-en.hyp.txt     their translations
  de-en.ref.txt     the references

and sacrebleu's command line gives the same scores from it:

  sacrebleu de-en.ref.txt -i de-en.hyp.txt -m bleu chrf --tokenize intl -w 2
"""

import dataclasses
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import rich.console
import rich.table
from etils import epath

from taskmoe_jax.evaluate.scores import PairScore, averages, one_line
from taskmoe_jax.files import write_whole
from taskmoe_jax.task_space import split_pair

Results = dict[str, Any]

_GROUPS = {"xx-en": "average xx→en", "en-xx": "average en→xx", "all": "average"}


class Translations(NamedTuple):
  """The sentences of one pair's test set, all three of the same length."""

  sources: Sequence[str]
  hypotheses: Sequence[str]
  references: Sequence[str]


def results_dict(
  scores: Sequence[PairScore],
  *,
  run: str,
  step: int,
  split: str,
  decoder: Mapping[str, Any],
  seconds: float,
  tokens: int,
) -> Results:
  """Gathers what `results.json` holds.

  Args:
    scores: In the order of the table.
    run: The run directory or bundle that was evaluated.
    step: Training steps behind its parameters.
    split: `validation` or `test`.
    decoder: Settings of the decoder by name (beam size, length penalty), as
      far as JSON can hold them. BLEU cannot be compared without them.
    seconds: Wall time of decoding.
    tokens: Target tokens that were decoded in this time.
  """
  return {
    "run": run,
    "step": step,
    "split": split,
    "decoder": dict(decoder),
    "seconds": seconds,
    "tokens": tokens,
    "tokens_per_second": tokens / seconds,
    "averages": averages(scores),
    "pairs": [dataclasses.asdict(score) for score in scores],
  }


def write_results(
  folder: str | os.PathLike,
  results: Results,
  translations: Mapping[str, Translations],
) -> None:
  """Writes the folder described at the top of this module.

  Each file is written under a temporary name and then renamed, and
  `results.json` comes last, so whoever sees it sees a finished folder.
  A line break inside a sentence becomes a space.

  Args:
    folder: Made if it is not there; any path that `epath` understands.
    results: From `results_dict`.
    translations: By pair.
  """
  text = json.dumps(results, ensure_ascii=False, allow_nan=False, indent=2)
  folder = epath.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  for pair, sentences in translations.items():
    for kind, texts in zip(("src", "hyp", "ref"), sentences, strict=True):
      lines = "".join(f"{one_line(text)}\n" for text in texts)
      write_whole(folder / f"{pair}.{kind}.txt", lines.encode())
  write_whole(folder / "results.md", markdown(results).encode())
  write_whole(folder / "results.json", f"{text}\n".encode())


def markdown(results: Results) -> str:
  """Formats results as a Markdown table, averages last, then signatures."""
  rows = [
    *((row["pair"], row["examples"], row) for row in results["pairs"]),
    *(
      (f"**{_GROUPS[group]}**", f"{row['pairs']} pairs", row)
      for group, row in results["averages"].items()
    ),
  ]
  settings = ", ".join(f"{k} {v}" for k, v in results["decoder"].items())
  lines = [
    f"# {results['run']}, step {results['step']}, {results['split']}",
    "",
    f"Decoder: {settings}.",
    f"{results['tokens']} tokens in {results['seconds']:.1f} s,"
    f" {results['tokens_per_second']:.0f} tokens/s.",
    "",
    "| pair | examples | BLEU | chrF |",
    "|---|---:|---:|---:|",
    *(
      f"| {name} | {examples} | {row['bleu']:.2f} | {row['chrf']:.2f} |"
      for name, examples, row in rows
    ),
    "",
    *(f"- {line}" for line in _signature_lines(results["pairs"])),
  ]
  return "\n".join(lines) + "\n"


def print_table(console: rich.console.Console, results: Results) -> None:
  """Prints BLEU with one row per language, into English and out of it.

  Pairs without English follow, one row each. chrF is left to the files: the
  table must fit a terminal and be read at a glance.
  """
  bleu = {row["pair"]: f"{row['bleu']:.2f}" for row in results["pairs"]}
  average = {
    group: f"{row['bleu']:.2f}" for group, row in results["averages"].items()
  }
  partners = _partners_of_english(bleu)
  if partners:
    table = rich.table.Table(
      title=f"BLEU, {results['split']}, step {results['step']}"
    )
    table.add_column("language")
    table.add_column("xx→en", justify="right")
    table.add_column("en→xx", justify="right")
    for language in partners:
      table.add_row(
        language, bleu.get(f"{language}-en"), bleu.get(f"en-{language}")
      )
    table.add_section()
    table.add_row("average", average.get("xx-en"), average.get("en-xx"))
    console.print(table)
  for pair in bleu:
    if "en" not in split_pair(pair):
      console.print(f"{pair}: {bleu[pair]}")
  console.print(f"average of {len(bleu)} pairs: {average['all']}")
  for line in _signature_lines(results["pairs"]):
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _partners_of_english(pairs: Iterable[str]) -> list[str]:
  partners = {}
  for source, target in map(split_pair, pairs):
    if source == "en":
      partners[target] = None
    elif target == "en":
      partners[source] = None
  return list(partners)


def _signature_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
  """One line per signature, with the pairs it holds for if not for all."""
  rows = list(rows)
  lines = []
  for metric, name in (("bleu", "BLEU"), ("chrf", "chrF2")):
    pairs_of: dict[str, list[str]] = {}
    for row in rows:
      pairs_of.setdefault(row[f"{metric}_signature"], []).append(row["pair"])
    for signature, pairs in pairs_of.items():
      where = "" if len(pairs) == len(rows) else f" ({', '.join(pairs)})"
      lines.append(f"{name}: `{signature}`{where}")
  return lines

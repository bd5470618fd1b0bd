"""`taskmoe demo`: the main job in minutes, on a laptop, without a network.

Builds a vocabulary, trains a small task-MoE on text from Unicode CLDR, scores
all 30 pairs on unseen sentences, extracts the sub-network of every target
language, proves each exact, and translates with one of them. A demo that was
killed resumes from its last checkpoint when it is started again.
"""

import argparse
import json
import statistics
import time
from typing import Any

import rich.console
import rich.table
from etils import epath

from taskmoe_jax.cli import flags
from taskmoe_jax.cli.commands.train import INTERRUPTED
from taskmoe_jax.cli.flags import use_compilation_cache
from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import arguments, configured
from taskmoe_jax.task_space import split_pair

# Which sub-network is shown, and on how many sentences. The first is English.
_AT_WORK = 2
_SHOWN = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
  flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> int:
  begin = time.perf_counter()
  use_compilation_cache()
  flags.load(args, files=["recipes/demo.gin"])
  console = rich.console.Console(soft_wrap=True, highlight=False)
  console.rule("1. vocabulary and training")
  from taskmoe_jax.decoding.search import GREEDY
  from taskmoe_jax.evaluate import evaluation
  from taskmoe_jax.export.exporting import export
  from taskmoe_jax.export.selection import reducible_stacks
  from taskmoe_jax.export.verify import Check
  from taskmoe_jax.train import loop

  supplied: dict[str, Any] = {
    "config_text": gin_files.kept_text(),
    "console": console,
  }
  built = arguments(loop.train, supplied)
  # Said before the training, not after it.
  reducible_stacks(built["model"])
  trained = loop.train(**built, **supplied)
  if trained.stopped:
    return INTERRUPTED
  console.rule("2. BLEU on unseen sentences")
  # Beams would take most of the demo's minutes and change little here.
  results = configured(evaluation.evaluate)(
    run_dir=trained.run_dir, search=GREEDY, console=console
  )
  console.rule("3. sub-networks")
  exported = export(
    trained.run_dir, tasks="all", overwrite=True, console=console
  )
  console.rule("4. a sub-network at work")
  _translate(exported, epath.Path(results["folder"]), console)
  console.rule("5. in short")
  speed = _training_speed(trained.run_dir)
  console.print(_table(results, exported))
  console.print(
    f"parameters: {trained.parameters / 1e6:.2f}M in the mixture,"
    f" {exported[0].parameters[1] / 1e6:.2f}M in each sub-network\n"
    f"training: {trained.step} steps, {speed:.0f} target tokens/s;"
    f" decoding the mixture: {results['tokens_per_second']:.0f} tokens/s\n"
    f"everything is in {trained.run_dir}: translations in evaluation/,"
    " sub-networks in export-*/, curves in tensorboard/"
  )
  checks = [row.check for row in exported if isinstance(row.check, Check)]
  worst = max(check.max_logit_difference for check in checks)
  console.print(
    f"demo: average BLEU {results['averages']['all']['bleu']:.1f} over"
    f" {len(results['pairs'])} pairs; {len(exported)} sub-networks exact,"
    f" max difference {worst:.1e};"
    f" {(time.perf_counter() - begin) / 60:.1f} min"
  )
  return 0


def _translate(
  exported: list, tests: epath.Path, console: rich.console.Console
) -> None:
  """Shows some unseen sentences, translated by one sub-network from disk."""
  import taskmoe_jax

  folder = exported[_AT_WORK].folder
  translator = taskmoe_jax.load(str(folder))
  pair = translator.task_space.pairs[0]
  console.print(f"taskmoe translate --bundle={folder} --pair={pair}\n")
  sources, references = (
    (tests / f"{pair}.{kind}.txt").read_text().splitlines()[:_SHOWN]
    for kind in ("src", "ref")
  )
  translations = translator.translate(sources, pair)
  names = (*split_pair(pair), "reference")
  for lines in zip(sources, translations, references, strict=True):
    for name, line in zip(names, lines, strict=True):
      console.print(f"  {name:>9}  {line}", markup=False)
    console.print()


def _training_speed(run_dir: str) -> float:
  """Median of the target tokens a second that the run has reported."""
  lines = (epath.Path(run_dir) / "metrics.jsonl").read_text().splitlines()
  return statistics.median(
    json.loads(line)["tokens_per_second"] for line in lines
  )


def _table(results: dict, exported: list) -> rich.table.Table:
  """BLEU of every pair, beside the sub-network that translates it."""
  bleu = {row["pair"]: row["bleu"] for row in results["pairs"]}
  table = rich.table.Table()
  table.add_column("task")
  for name in ("BLEU xx→en", "BLEU en→xx", "parameters", "max difference"):
    table.add_column(name, justify="right")
  for row in exported:
    pairs = (f"{row.task}-en", f"en-{row.task}")
    table.add_row(
      row.task,
      *(f"{bleu[pair]:.1f}" if pair in bleu else "" for pair in pairs),
      f"{row.parameters[1] / 1e6:.2f}M",
      f"{row.check.max_logit_difference:.1e}",
    )
  averages = results["averages"]
  table.add_section()
  table.add_row(
    "average",
    *(f"{averages[group]['bleu']:.1f}" for group in ("xx-en", "en-xx")),
  )
  return table

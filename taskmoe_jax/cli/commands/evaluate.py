"""`taskmoe evaluate`: translates a test set, scores every pair, compares runs.

  taskmoe evaluate --run_dir=runs/a                       its test part
  taskmoe evaluate --run_dir=runs/a --test_set=wmt19      sacrebleu's, by name
  taskmoe evaluate --bundle=runs/a/export-500/de --tsv=my.tsv --pairs=en-de
  taskmoe evaluate --compare runs/a runs/b                what changed

With --run_dir the settings are those that the run was trained with; otherwise
those of a recipe, and the run is in its RUN_DIR. An evaluation that was killed
resumes where it stopped when the same command is given again. Several processes
evaluate one run together as they train one; the first of them writes.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import Any

from taskmoe_jax.cli import flags
from taskmoe_jax.errors import TaskMoeError

_DEFAULTS = "runs/evaluate.gin"


def add_arguments(parser: argparse.ArgumentParser) -> None:
  model = parser.add_argument_group("what to evaluate")
  model.add_argument(
    "--run_dir", help="a run; the recipe's RUN_DIR unless given"
  )
  model.add_argument(
    "--step", type=int, help="which checkpoint; the newest unless given"
  )
  model.add_argument("--bundle", help="a folder that `taskmoe export` wrote")
  text = parser.add_argument_group("on which text")
  text.add_argument("--part", help="validation or test")
  text.add_argument(
    "--tsv",
    help="a file of source<TAB>reference of one pair (--pairs), or a folder of"
    " xx-yy.{dev,test}.tsv[.gz] files",
  )
  text.add_argument(
    "--test_set", help="one that sacrebleu knows, such as wmt19"
  )
  text.add_argument(
    "--pairs", type=_names, help="such as de-en,en-de; all unless given"
  )
  text.add_argument(
    "--examples",
    type=int,
    help="number of sentences of each pair; all unless given",
  )
  search = parser.add_argument_group("how to translate")
  search.add_argument("--beam_size", type=int, help="1 is greedy")
  search.add_argument("--length_penalty", type=float, help="of beam search")
  search.add_argument("--batch_size", type=int, help="rows decoded together")
  search.add_argument(
    "--truncate", action="store_true", help="cut sources that are too long"
  )
  _add_scoring(parser)
  flags.add_gin_flags(parser)
  flags.add_host_flags(parser)


def _add_scoring(parser: argparse.ArgumentParser) -> None:
  scores = parser.add_argument_group("how to score")
  scores.add_argument(
    "--metrics",
    type=_names,
    help="comma-separated: bleu, chrf, chrf++, ter, spbleu, or your own as"
    " module:NAME",
  )
  scores.add_argument("--tokenizer", help="tokenizer of BLEU: intl or 13a")
  scores.add_argument(
    "--bootstrap", type=int, help="resamples for confidence intervals; 0: none"
  )
  scores.add_argument(
    "--high_resource",
    type=_names,
    help="languages with much training text, such as cs,de,fr",
  )
  scores.add_argument("--out", help="folder of the results")
  compared = parser.add_argument_group("what changed")
  compared.add_argument(
    "--compare",
    nargs=2,
    metavar=("RUN_A", "RUN_B"),
    help="runs, bundles or folders of results; nothing is translated",
  )
  compared.add_argument(
    "--significance",
    default="bootstrap",
    help="bootstrap or randomization (paired, approximate)",
  )
  compared.add_argument(
    "--samples",
    type=int,
    default=0,
    help="resamples or trials of the significance test; 1000 or 10000 unless"
    " given",
  )


def run(args: argparse.Namespace) -> None:
  # sacrebleu gives advice about tokenizers that we have chosen by rule.
  logging.getLogger("sacrebleu").setLevel(logging.ERROR)
  if args.compare:
    from taskmoe_jax.evaluate.comparison_report import compare_runs

    compare_runs(
      *args.compare,
      significance=args.significance,
      samples=args.samples,
      out=args.out,
    )
    return
  if not (args.run_dir or args.bundle or args.gin_file):
    raise TaskMoeError(
      "nothing to evaluate: set --run_dir, --bundle, or --gin_file to a recipe"
      " whose RUN_DIR holds a run."
    )
  if args.run_dir and args.bundle:
    raise TaskMoeError(
      f"two models to evaluate: --run_dir={args.run_dir} and"
      f" --bundle={args.bundle}. Set one of them."
    )
  with flags.connected(args):
    kept = [flags.run_config(args.run_dir)] if args.run_dir else []
    args.gin_overrides = [*bindings(args), *(args.gin_overrides or ())]
    # First our own: a run may be older than one of the settings.
    flags.load(args, files=[_DEFAULTS, *kept])
    _evaluate(args)


def bindings(args: argparse.Namespace) -> list[str]:
  """What the flags bind, as `--gin.NAME=VALUE` would."""
  values = {
    "search.Beam.length_penalty": args.length_penalty,
    "scores.Scoring.metrics": args.metrics,
    "scores.Scoring.tokenizer": args.tokenizer,
    "scores.Scoring.bootstrap": args.bootstrap,
    "evaluation.evaluate.part": args.part,
    "evaluation.evaluate.examples": args.examples,
    "evaluation.evaluate.batch_size": args.batch_size,
  }
  if args.beam_size == 1:
    values["evaluation.evaluate.search"] = "@search.Greedy()"
  elif args.beam_size is not None:
    values["evaluation.evaluate.search"] = "@search.Beam()"
    values["search.Beam.size"] = args.beam_size
  return [
    f"--gin.{name}={value}"
    for name, value in values.items()
    if value is not None
  ]


def _evaluate(args: argparse.Namespace) -> None:
  from taskmoe_jax.decoding.search import Lengths
  from taskmoe_jax.evaluate import evaluation

  supplied = {
    name: getattr(args, name)
    for name in ("pairs", "step", "bundle", "tsv", "test_set", "out")
  }
  if args.run_dir:
    supplied["run_dir"] = args.run_dir
  if args.high_resource:
    supplied["named_high_resource"] = args.high_resource
  if args.truncate:
    supplied["lengths"] = Lengths(truncate=True)
  if args.bundle and not args.gin_file:
    # No recipe: no mixture to take text from, and no mesh.
    supplied |= {"run_dir": None, "mixture": None, "mesh": None}
  built = _built(evaluation.evaluate, supplied)
  evaluation.evaluate(**built, **supplied)


def _built(
  function: Callable[..., Any], supplied: dict[str, Any]
) -> dict[str, Any]:
  """The arguments that gin binds.

  On other text than the mixture's, the mixture is only asked how much training
  text there was of each pair. That text need not be on this machine.
  """
  from taskmoe_jax.config.build import arguments
  from taskmoe_jax.hosts import processes

  try:
    return arguments(function, supplied)
  except TaskMoeError as error:
    if not (supplied["tsv"] or supplied["test_set"]) or "mixture" in supplied:
      raise
    reason = str(error).splitlines()[0]
    supplied["mixture"] = None
    built = arguments(function, supplied)
    if processes.is_first():
      print(
        f"taskmoe: no averages by training text, which is not here: {reason}",
        file=sys.stderr,
      )
    return built


def _names(text: str) -> tuple[str, ...]:
  return tuple(text.split(","))

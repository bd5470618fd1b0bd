"""`taskmoe evaluate`: translates a test set and scores every pair.

With --run_dir the settings are those that the run was trained with; otherwise
those of a recipe, and the run is in its RUN_DIR.
"""

import argparse

from taskmoe_jax.cli import gin_flags
from taskmoe_jax.config.build import configured
from taskmoe_jax.errors import TaskMoeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--run_dir", help="what to evaluate; the recipe's RUN_DIR unless given"
  )
  parser.add_argument("--part", help="validation or test")
  parser.add_argument(
    "--pairs",
    type=lambda text: tuple(text.split(",")),
    help="such as de-en,en-de; all unless given",
  )
  parser.add_argument(
    "--examples", type=int, help="the first so many of each pair"
  )
  parser.add_argument("--batch_size", type=int, help="rows decoded together")
  parser.add_argument("--step", type=int, help="which checkpoint; the newest")
  gin_flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> None:
  if not args.run_dir and not args.gin_file:
    raise TaskMoeError(
      "nothing to evaluate: set --run_dir, or --gin_file to a recipe whose"
      " RUN_DIR holds a run."
    )
  kept = [gin_flags.run_config(args.run_dir)] if args.run_dir else []
  gin_flags.load(args, files=kept)
  from taskmoe_jax.evaluate import evaluation

  names = ("run_dir", "part", "pairs", "examples", "batch_size", "step")
  given = {name: getattr(args, name) for name in names}
  configured(evaluation.evaluate)(
    **{name: value for name, value in given.items() if value is not None}
  )

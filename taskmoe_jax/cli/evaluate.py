"""`taskmoe evaluate`: translates a test set and scores every pair.

Settings are those of the recipe that the run was trained with.
"""

import argparse
import os

from taskmoe_jax.cli import gin_flags
from taskmoe_jax.config.build import configured


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--run_dir", required=True, help="what to evaluate")
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
  gin_flags.load(args, files=[gin_flags.run_config(args.run_dir)])
  from taskmoe_jax.evaluate import evaluation

  names = ("part", "pairs", "examples", "batch_size", "step")
  given = {name: getattr(args, name) for name in names}
  configured(evaluation.evaluate)(
    run_dir=os.fspath(args.run_dir),
    **{name: value for name, value in given.items() if value is not None},
  )

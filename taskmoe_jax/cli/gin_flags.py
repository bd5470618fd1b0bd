"""The flags of every command that takes its settings from gin files."""

import argparse
from collections.abc import Iterable

from etils import epath

from taskmoe_jax.cli import commands
from taskmoe_jax.config import gin_files
from taskmoe_jax.errors import TaskMoeError


def add_gin_flags(parser: argparse.ArgumentParser) -> None:
  """Adds `--gin_file=FILE`, and makes the parser take `--gin.NAME=VALUE`."""
  group = parser.add_argument_group("settings")
  group.add_argument(
    "--gin_file",
    action="append",
    default=[],
    metavar="FILE",
    help="a recipe such as recipes/demo.gin, or a path; several are read in"
    " order",
  )
  # argparse cannot take flags whose names it does not know; main() sorts them
  # out where this attribute exists. The line is for --help.
  group.add_argument(
    "--gin.NAME",
    action="append",
    default=[],
    dest="gin_overrides",
    metavar="VALUE",
    help="bind a macro (--gin.TRAIN_STEPS=10) or a parameter"
    " (--gin.loop.train.seed=3) after the files; strings need no quotes",
  )


def load(args: argparse.Namespace, files: Iterable[str] = ()) -> None:
  """Makes the files and overrides of the command line the gin config there is.

  Args:
    args: Of a parser that `add_gin_flags` was called on.
    files: Read before those of the command line, such as a run's `config.gin`.
  """
  files = [*files, *args.gin_file]
  if not files:
    raise TaskMoeError(
      "no gin file. Set --gin_file to one of"
      f" {', '.join(gin_files.recipes())}, or to a path."
    )
  gin_files.load(
    files, args.gin_overrides, top_functions=commands.top_functions()
  )


def run_config(run_dir: str) -> str:
  """Path of the recipe that a run directory keeps."""
  path = epath.Path(run_dir) / "config.gin"
  if not path.exists():
    raise TaskMoeError(
      f"{run_dir!r} is no run directory: it has no config.gin. Set --run_dir to"
      " the RUN_DIR of a run that `taskmoe train` has begun."
    )
  return str(path)

"""Flags that several commands share, and what they set up.

- gin: `--gin_file`, `--gin.NAME=VALUE`, and the gin config that they load;
- hosts: the flags of a job of several processes, and the connection;
- JAX's compilation cache, which has an environment variable and no flag.
"""

import argparse
import contextlib
import os
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
  # argparse cannot take flags whose names it does not know; main() handles them
  # where this attribute exists. This line is for --help.
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
  """Loads the files and overrides of the command line as the gin config.

  Args:
    args: Parsed by a parser that `add_gin_flags` was called on.
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
      f"{run_dir!r} is not a run directory: it has no config.gin. Set --run_dir"
      " to the RUN_DIR of a run that `taskmoe train` has begun."
    )
  return str(path)


def add_host_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    "hosts",
    "On TPU pods, GKE and Slurm the processes find each other. Elsewhere each"
    " is started with these flags, or with the variables named in parentheses.",
  )
  group.add_argument(
    "--coordinator",
    default=os.environ.get("JAX_COORDINATOR_ADDRESS"),
    metavar="HOST:PORT",
    help="address of process 0 (JAX_COORDINATOR_ADDRESS)",
  )
  group.add_argument(
    "--num_processes",
    type=int,
    default=_number("JAX_NUM_PROCESSES"),
    metavar="N",
    help="number of processes of the job (JAX_NUM_PROCESSES); 1: only this one",
  )
  group.add_argument(
    "--process_id",
    type=int,
    default=_number("JAX_PROCESS_ID"),
    metavar="I",
    help="index of this process, from 0 (JAX_PROCESS_ID)",
  )
  group.add_argument(
    "--silence_seconds",
    type=float,
    default=60.0,
    metavar="S",
    help="give up on a process that has been silent for this long (60)",
  )


def connected(args: argparse.Namespace) -> contextlib.AbstractContextManager:
  """Joins the other processes; call it before anything uses JAX devices."""
  from taskmoe_jax.hosts import processes

  return processes.connected(
    coordinator=args.coordinator,
    num_processes=args.num_processes,
    process_id=args.process_id,
    silence_seconds=args.silence_seconds,
  )


def _number(variable: str) -> int | None:
  text = os.environ.get(variable)
  try:
    return None if text is None else int(text)
  except ValueError:
    raise TaskMoeError(
      f"{variable}={text!r} is not a number. Set it to one, or unset it."
    ) from None


def use_compilation_cache() -> None:
  """Sets the folder in which JAX keeps compiled programs.

  It is in the user's cache (`$XDG_CACHE_HOME` or `~/.cache`) and shared by all
  runs; JAX tells programs apart. `JAX_COMPILATION_CACHE_DIR` sets another one,
  which may be in a bucket; if it is empty, nothing is kept.
  """
  folder = os.environ.get("JAX_COMPILATION_CACHE_DIR")
  if folder is None:
    home = os.path.expanduser("~/.cache")
    cache = os.environ.get("XDG_CACHE_HOME") or home
    folder = os.path.join(cache, "taskmoe_jax", "compiled")
  if folder:
    import jax

    jax.config.update("jax_compilation_cache_dir", folder)

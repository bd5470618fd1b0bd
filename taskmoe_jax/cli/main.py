"""`taskmoe COMMAND ...`: finds the command, and shows its errors in one line.

Exit status: 0 for success, 2 for a mistake the user can fix, 130 after Ctrl-C,
141 if the output is no longer read; any other error is a bug in taskmoe, with
its traceback.
"""

import argparse
import importlib
import importlib.metadata
import os
import platform
import sys
import traceback
from collections.abc import Sequence

import taskmoe_jax
from taskmoe_jax.cli import export_flags
from taskmoe_jax.cli.commands import COMMANDS
from taskmoe_jax.errors import TaskMoeError, one_of

OVERRIDE = "--gin."


def main(argv: Sequence[str] | None = None) -> int:
  """Runs one command and returns the exit status."""
  argv = sys.argv[1:] if argv is None else list(argv)
  try:
    return _run(argv)
  except TaskMoeError as error:
    if "--traceback" in argv:
      traceback.print_exc()
    # gin appends lines to what is raised in a function that it has wrapped.
    print(f"taskmoe: error: {str(error).splitlines()[0]}", file=sys.stderr)
    return 2
  except BrokenPipeError:
    # The reader of our output, such as `head`, has closed it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141
  except KeyboardInterrupt:
    print("taskmoe: interrupted", file=sys.stderr)
    return 130


def _run(argv: list[str]) -> int:
  if not argv or argv[0] in ("-h", "--help"):
    print(_help())
    return 0 if argv else 2
  if argv[0] == "--version":
    print(_version())
    return 0
  name, *flags = argv
  # TensorFlow, which only reads data here, would report on standard error that
  # it finds no GPU.
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
  if name not in COMMANDS:
    raise TaskMoeError(one_of("command", name, COMMANDS) + ".")
  if name == "export":
    name, flags = export_flags.current_spelling(flags)
  command = importlib.import_module(f"taskmoe_jax.cli.commands.{name}")
  parser = _Parser(
    prog=f"taskmoe {name}",
    description=command.__doc__,
    formatter_class=argparse.RawDescriptionHelpFormatter,
    allow_abbrev=False,
  )
  command.add_arguments(parser)
  parser.add_argument(
    "--traceback",
    action="store_true",
    help="show where in the code an error was raised",
  )
  return command.run(parser.parse(flags)) or 0


def _version() -> str:
  """Our version, and those that a bug report should name.

  Read from the installed metadata, so that nothing is imported.
  """
  versions = [f"Python {platform.python_version()}"]
  for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint"):
    versions.append(f"{name} {importlib.metadata.version(name)}")
  return f"taskmoe {taskmoe_jax.__version__} ({', '.join(versions)})"


def _help() -> str:
  width = max(map(len, COMMANDS))
  lines = [
    f"  {name:{width}}  {command.summary}" for name, command in COMMANDS.items()
  ]
  return "\n".join(
    [
      "usage: taskmoe COMMAND [FLAGS]",
      "",
      "Multilingual translation with task-level Mixture-of-Experts.",
      "",
      *lines,
      "",
      "`taskmoe COMMAND --help` lists the flags of one; `taskmoe --version`",
      "prints the version.",
    ]
  )


class _Parser(argparse.ArgumentParser):
  """Raises TaskMoeError where argparse would print its usage and exit."""

  def error(self, message: str):
    raise TaskMoeError(f"{message}. See `{self.prog} --help`.")

  def parse(self, flags: list[str]) -> argparse.Namespace:
    """Parses flags; gin flags are separated, all others must be known.

    They are separated before argparse sees them: it takes a flag whose value
    contains a space for a positional argument.
    """
    overrides = []
    if self.get_default("gin_overrides") is not None:
      overrides = [flag for flag in flags if flag.startswith(OVERRIDE)]
      flags = [flag for flag in flags if not flag.startswith(OVERRIDE)]
    args, unknown = self.parse_known_args(flags)
    for argument in unknown:
      flag = argument.partition("=")[0]
      kind = "flag" if flag.startswith("-") else "argument"
      raise TaskMoeError(f"{one_of(kind, flag, self._option_string_actions)}.")
    if overrides:
      args.gin_overrides = overrides
    return args


if __name__ == "__main__":
  sys.exit(main())

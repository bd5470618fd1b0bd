"""`taskmoe translate`: translates text line by line, to standard output."""

import argparse
import sys

from taskmoe_jax.errors import TaskMoeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  model = parser.add_mutually_exclusive_group(required=True)
  model.add_argument("--bundle", help="a folder that `taskmoe export` wrote")
  model.add_argument("--run_dir", help="a run directory: the whole mixture")
  parser.add_argument(
    "--pair", help="such as de-en; not needed where there is only one"
  )
  parser.add_argument(
    "--input", help="a UTF-8 file; standard input unless given"
  )
  parser.add_argument(
    "--batch_size", type=int, default=32, help="lines translated together"
  )


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.bundle import load_bundle
  from taskmoe_jax.train.restoring import load_translator

  if args.bundle is not None:
    translator = load_bundle(args.bundle)
  else:
    translator, _ = load_translator(args.run_dir)
  lines = _read_lines(args.input)
  for text in translator.translate(
    lines, args.pair, batch_size=args.batch_size
  ):
    # One line for each line, also if the model writes a line break.
    print(" ".join(text.splitlines()))


def _read_lines(path: str | None) -> list[str]:
  name = path or "standard input"
  try:
    if path is None:
      data = sys.stdin.buffer.read()
    else:
      with open(path, "rb") as file:
        data = file.read()
  except OSError as error:
    raise TaskMoeError(
      f"cannot read {path!r} ({error.strerror}). Set --input."
    ) from None
  lines = []
  for number, line in enumerate(data.splitlines(), start=1):
    try:
      lines.append(line.decode("utf-8"))
    except UnicodeDecodeError as error:
      raise TaskMoeError(
        f"{name} line {number} is not UTF-8: {error}."
      ) from None
  return lines

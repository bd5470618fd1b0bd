"""The flags that `export`, `prune`, `shrink` and `convert` have in common.

And what `taskmoe export` was when these commands were flags of it: the old
spelling continues to work, and says what to write now.
"""

import argparse
import shlex
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from taskmoe_jax.export.shrinking.shrink import Shrinking

# Flags of `taskmoe export` in earlier versions, and what they are called now.
_RENAMED = {
  "prune": {
    "--prune": "--rate",
    "--prune_by": "--by",
    "--prune_layers": "--layers",
    "--prune_metric": "--metric",
    "--prune_examples": "--examples",
    "--prune_score": "--score",
    "--prune_tsv": "--tsv",
  },
  "verify": {"--verify": "--bundle"},
}
_SHRINKING = ("--quantize", "--trim_vocabulary")


def add_run_flags(parser: argparse.ArgumentParser, folder: str) -> None:
  """Adds which run to read, of which tasks, and where bundles go.

  Args:
    parser: The command's.
    folder: What the folder in the run's directory is called, `export` or so.
  """
  parser.add_argument("--run_dir", required=True, help="the run to read")
  parser.add_argument(
    "--tasks", help="all, or tasks and pairs: de,fr or de-en; a bundle for each"
  )
  parser.add_argument("--out", help=f"RUN_DIR/{folder}-STEP unless given")
  parser.add_argument(
    "--step", type=int, help="step of the checkpoint; the newest unless given"
  )
  add_overwrite_flag(parser)


def add_bundle_flags(parser: argparse.ArgumentParser) -> None:
  """Adds which bundle to read, and where the run is that it was made from."""
  parser.add_argument(
    "--bundle", required=True, help="a folder that `taskmoe export` wrote"
  )
  parser.add_argument(
    "--run_dir",
    help="the run it was made from, whose sentences are used to check it; only"
    " if that has moved",
  )
  add_overwrite_flag(parser)


def add_overwrite_flag(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--overwrite", action="store_true", help="replace what exists"
  )


def add_formats_flag(
  parser: argparse.ArgumentParser, *, required: bool = False
) -> None:
  parser.add_argument(
    "--formats",
    default="",
    required=required,
    help="for other engines, such as huggingface,ctranslate2_int8: each a"
    " folder in the bundle; MODULE:OBJECT names one of your own",
  )


def add_score_flag(parser: argparse.ArgumentParser, what: str) -> None:
  parser.add_argument(
    "--score",
    type=int,
    default=0,
    metavar="N",
    help=f"BLEU of {what}, on N sentences of each pair that the run was"
    " evaluated on",
  )


def add_shrinking_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group("to make bundles smaller")
  group.add_argument(
    "--trim_vocabulary",
    default="",
    metavar="TEXT",
    help="keep the pieces that this text uses: files, or folders of xx-yy.*.tsv"
    " and xx-yy.*.txt, comma-separated",
  )
  group.add_argument(
    "--quantize",
    help="round weights: int8, or int8_int4 (feed-forward networks to 4 bits)",
  )


def shrinking(args: argparse.Namespace) -> "Shrinking":
  """What `add_shrinking_flags` asks for."""
  from taskmoe_jax.bundles.quantization import quantization_named
  from taskmoe_jax.export.shrinking.shrink import NOTHING, Shrinking

  if not (args.quantize or args.trim_vocabulary):
    return NOTHING
  quantization = quantization_named(args.quantize) if args.quantize else None
  return Shrinking(args.trim_vocabulary, quantization, args.score)


def current_spelling(flags: Sequence[str]) -> tuple[str, list[str]]:
  """The command and its flags for what was spelled `taskmoe export FLAGS`.

  Prints a line to standard error if that is another command now.
  """
  names = [flag.partition("=")[0] for flag in flags]
  if "--prune" in names:
    command = "prune"
  elif "--verify" in names:
    command = "verify"
  elif "--bundle" in names:
    command = "shrink" if {*names} & {*_SHRINKING} else "convert"
  else:
    return "export", [*flags]
  renamed = _RENAMED.get(command, {})
  new = [
    renamed.get(name, name) + flag[len(name) :]
    for name, flag in zip(names, flags, strict=True)
  ]
  print(
    "taskmoe: this is a command of its own now, write:"
    f" taskmoe {command} {shlex.join(new)}",
    file=sys.stderr,
  )
  return command, new

"""`taskmoe export`: extracts the sub-networks of tasks, and verifies them.

  taskmoe export --run_dir=runs/a --tasks=de,fr --formats=ctranslate2_int8
  taskmoe export --run_dir=runs/a --union=de,fr
  taskmoe export --run_dir=runs/a --whole --quantize=int8_int4

Each bundle is compared with the whole mixture on sentences that the run kept:
its logits must be equal to float32 rounding, and its translations identical.
Each format is loaded by its own engine and compared with the bundle.

See also `taskmoe prune`, for stacks whose experts the text chooses; and for
bundles that exist `taskmoe shrink`, `taskmoe convert` and `taskmoe verify`.
"""

import argparse

from taskmoe_jax.cli import export_flags
from taskmoe_jax.errors import TaskMoeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  export_flags.add_run_flags(parser, "export")
  parser.add_argument(
    "--union", default="", help="the same: one bundle for all of these together"
  )
  parser.add_argument(
    "--whole",
    action="store_true",
    help="the whole mixture as one bundle, without sub-networks",
  )
  export_flags.add_formats_flag(parser)
  parser.add_argument(
    "--check",
    default="auto",
    help="mixture: beside the whole model, on sentences; slices: number by"
    " number, with the memory of the sub-network; auto: mixture if it fits",
  )
  export_flags.add_score_flag(
    parser, "the whole model and of each bundle (before and after rounding)"
  )
  export_flags.add_shrinking_flags(parser)


def run(args: argparse.Namespace) -> None:
  if args.whole:
    _export_whole(args)
    return
  from taskmoe_jax.export.exporting import export

  export(
    args.run_dir,
    tasks=args.tasks,
    union=args.union,
    check=args.check,
    score=args.score,
    formats=args.formats,
    out=args.out,
    step=args.step,
    overwrite=args.overwrite,
    shrinking=export_flags.shrinking(args),
  )


def _export_whole(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.full_model import export_whole

  if args.formats or args.union or args.tasks not in (None, "all"):
    raise TaskMoeError(
      "--whole writes one bundle, of the whole model and in our own format."
      " Leave out --tasks and --union; --formats can be added to the bundle"
      " if it is dense."
    )
  if args.check != "auto":
    raise TaskMoeError(
      f"--check={args.check} has no effect with --whole, which compares every"
      " number. Leave out --check."
    )
  export_whole(
    args.run_dir,
    out=args.out,
    step=args.step,
    overwrite=args.overwrite,
    shrinking=export_flags.shrinking(args),
  )

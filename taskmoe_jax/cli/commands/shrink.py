"""`taskmoe shrink`: makes a smaller bundle of a bundle.

  taskmoe shrink --bundle=runs/a/export-500/de --quantize=int8 --out=small/de
  taskmoe shrink --bundle=runs/a/export-500/de --trim_vocabulary=my/text \\
      --out=small/de

The old bundle is unchanged, and the two are compared. `taskmoe export` takes
the same flags, to export smaller bundles from the start.
"""

import argparse

from taskmoe_jax.cli import export_flags
from taskmoe_jax.errors import TaskMoeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  export_flags.add_bundle_flags(parser)
  parser.add_argument(
    "--out", required=True, help="the folder of the smaller bundle"
  )
  export_flags.add_score_flag(parser, "the old bundle and of the new one")
  export_flags.add_shrinking_flags(parser)


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.shrinking.bundles import shrink_bundle

  if not (args.quantize or args.trim_vocabulary):
    raise TaskMoeError(
      f"nothing to make the bundle {args.bundle!r} smaller with. Set --quantize"
      " or --trim_vocabulary."
    )
  shrink_bundle(
    args.bundle,
    args.out,
    export_flags.shrinking(args),
    run_dir=args.run_dir,
    overwrite=args.overwrite,
  )

"""`taskmoe export`: extracts the dense sub-networks of tasks, and proves them.

Each bundle is compared with the whole mixture on sentences that the run kept:
its logits must be equal to float32 rounding, and its translations identical.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--run_dir", required=True, help="what to export")
  parser.add_argument(
    "--tasks", default="all", help="all, or tasks and pairs: de,fr or de-en"
  )
  parser.add_argument("--out", help="RUN_DIR/export-STEP unless given")
  parser.add_argument("--step", type=int, help="which checkpoint; the newest")
  parser.add_argument(
    "--overwrite", action="store_true", help="replace bundles that are there"
  )


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.exporting import export

  export(
    args.run_dir,
    tasks=args.tasks,
    out=args.out,
    step=args.step,
    overwrite=args.overwrite,
  )

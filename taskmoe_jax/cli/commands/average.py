"""`taskmoe average`: the mean of a run's last checkpoints, as a run directory.

taskmoe average --run_dir=runs/demo --last=3 --out=runs/demo-average
taskmoe evaluate --run_dir=runs/demo-average
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--run_dir", required=True, help="the run whose checkpoints to average"
  )
  parser.add_argument(
    "--last", type=int, required=True, help="number of most recent checkpoints"
  )
  parser.add_argument("--out", required=True, help="the run directory to write")


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.runs.restoring import average

  step = average(args.run_dir, out=args.out, last=args.last)
  print(f"mean of {args.last} checkpoints up to step {step}: {args.out}")

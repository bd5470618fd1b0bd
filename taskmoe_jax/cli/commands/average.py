"""`taskmoe average`: the mean of a run's last checkpoints, as a run directory.

taskmoe average --run_dir=runs/demo --last=3 --out=runs/demo-average
taskmoe evaluate --run_dir=runs/demo-average
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--run_dir", required=True, help="whose checkpoints")
  parser.add_argument(
    "--last", type=int, required=True, help="how many of the newest"
  )
  parser.add_argument("--out", required=True, help="a folder to be made")


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.runs.averaging import average

  step = average(args.run_dir, out=args.out, last=args.last)
  print(f"mean of {args.last} checkpoints up to step {step}: {args.out}")

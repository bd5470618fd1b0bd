"""`taskmoe report`: one HTML page of a run's routing, sizes and scores."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument("--run_dir", required=True, help="what to report on")
  parser.add_argument("--step", type=int, help="which checkpoint; the newest")
  parser.add_argument("--out", help="RUN_DIR/report-STEP.html unless given")


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.report.page import report

  print(f"page in {report(args.run_dir, step=args.step, out=args.out)}")

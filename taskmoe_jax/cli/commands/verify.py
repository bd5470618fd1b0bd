"""`taskmoe verify`: compares the files of bundles with their checksums.

taskmoe verify --bundle=runs/a/export-500/de
taskmoe verify --bundle=runs/a/export-500

Folders of formats are included, which loading a bundle does not read.
"""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--bundle", required=True, help="a bundle, or a folder of bundles"
  )


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.bundles.bundle import check_bundles

  check_bundles(args.bundle)

"""`taskmoe cache`: tokenises a recipe's mixture once, for many runs.

Start the same command several times, on one machine or on several that share
the folder, and they share the work. Started again after a kill it resumes, and
rewrites what has been damaged. With --verify it only reads and checks every
byte of a cache.
"""

import argparse

from taskmoe_jax.cli import flags
from taskmoe_jax.config.build import configured


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--verify", metavar="FOLDER", help="only check all bytes of this cache"
  )
  flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> None:
  if args.verify is not None:
    from taskmoe_jax.data.cache.reading import verify_cache

    num_bytes = verify_cache(args.verify)
    print(f"{args.verify} is complete: {num_bytes / 1e6:.1f} MB")
    return
  flags.load(args)
  from taskmoe_jax.data.cache import writing

  configured(writing.write_cache)()

"""`taskmoe vocab`: makes the vocabulary of a recipe's mixture."""

import argparse

from taskmoe_jax.cli import flags
from taskmoe_jax.config.build import configured


def add_arguments(parser: argparse.ArgumentParser) -> None:
  flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> None:
  flags.load(args)
  from taskmoe_jax.data.text import vocabulary_training

  path = configured(vocabulary_training.make_vocabulary)()
  print(f"vocabulary in {path}")

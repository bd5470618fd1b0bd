"""`taskmoe train`: trains the model of a recipe, or goes on training it."""

import argparse

from taskmoe_jax.cli import gin_flags
from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import configured


def add_arguments(parser: argparse.ArgumentParser) -> None:
  gin_flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> None:
  gin_flags.load(args)
  from taskmoe_jax.train import loop

  configured(loop.train)(config_text=gin_files.config_text())

"""`taskmoe train`: trains the model of a recipe, or resumes its training.

A run that was killed resumes from its last checkpoint when the same command is
given again, on the same or another number of hosts. At SIGTERM, which announces
a preemption, it saves first.

Exit status, besides those of every command: 75 after SIGTERM, when everything
is saved and the run should be started again; 76 if another process of the job
has failed or stopped responding, or the run itself hangs.
"""

import argparse

from taskmoe_jax.cli import flags
from taskmoe_jax.cli.flags import use_compilation_cache
from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import configured

INTERRUPTED = 75


def add_arguments(parser: argparse.ArgumentParser) -> None:
  flags.add_gin_flags(parser)
  flags.add_host_flags(parser)


def run(args: argparse.Namespace) -> int:
  use_compilation_cache()
  with flags.connected(args):
    flags.load(args)
    from taskmoe_jax.train import loop

    result = configured(loop.train)(config_text=gin_files.kept_text())
  return INTERRUPTED if result.stopped else 0

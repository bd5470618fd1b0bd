"""The commands of `taskmoe`; `train` is the module `cli.commands.train`.

Each module has `add_arguments(parser)` and `run(args)`. It is imported only
when its command is run, so that `taskmoe --help` answers at once and `taskmoe
translate` never imports TensorFlow.
"""

from typing import NamedTuple


class Command(NamedTuple):
  """A line of `taskmoe --help`, and what the command takes from gin.

  Attributes:
    summary: One line.
    top_functions: Functions that the command calls with arguments from gin, as
      `module.name` where they are defined. Recipes serve all commands; a
      binding that none of these functions leads to is a mistake.
  """

  summary: str
  top_functions: tuple[str, ...] = ()


COMMANDS = {
  "train": Command(
    "train the model of a recipe, or resume its training",
    ("taskmoe_jax.train.loop.train",),
  ),
  "inspect": Command(
    "show what a training run will need, without an accelerator",
    ("taskmoe_jax.train.loop.train",),
  ),
  "vocab": Command(
    "make the vocabulary of a recipe's mixture",
    ("taskmoe_jax.data.text.vocabulary_training.make_vocabulary",),
  ),
  "cache": Command(
    "tokenize a recipe's mixture once, for many runs",
    ("taskmoe_jax.data.cache.writing.write_cache",),
  ),
  "precompile": Command(
    "compile a recipe for a TPU pod, without one, and report its cost"
  ),
  "data": Command(
    "show what a recipe's mixture yields: sizes, rates, lengths, rows",
    ("taskmoe_jax.train.loop.train",),
  ),
  "evaluate": Command(
    "translate a test set and score every pair",
    ("taskmoe_jax.evaluate.evaluation.evaluate",),
  ),
  "report": Command(
    "make an HTML page of a run: experts of tasks, sizes, scores"
  ),
  "average": Command("average a run's last checkpoints"),
  "export": Command("extract the sub-networks of tasks into bundles"),
  "prune": Command("remove experts that a language hardly uses"),
  "shrink": Command("make a smaller bundle: fewer bits, fewer pieces"),
  "convert": Command("add formats of other engines to a bundle"),
  "verify": Command("compare the files of bundles with their checksums"),
  "translate": Command("translate lines of text with a bundle or a run"),
  "demo": Command("vocabulary, training, scores and sub-networks in minutes"),
}


def top_functions() -> set[str]:
  """The top functions of all commands, for `config.guard`."""
  return {
    name for command in COMMANDS.values() for name in command.top_functions
  }

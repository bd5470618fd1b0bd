"""Old names in gin files, and what they are called now.

Every run directory keeps a `config.gin` that imports our modules by their paths
and binds parameters by their names: both are a saved format. Whoever moves a
module that recipes import, or renames a class or a parameter that they bind,
adds a line here, so that old runs resume, evaluate and export, and the recipes
of others can still be read. `tests/golden/old_configs` holds some of those.

Old names are replaced while a file is read; what is bound and printed has the
new ones.
"""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any

from gin import config_parser

# Modules that moved, without the package's name. Two keep the name that recipes
# know them by, as an alias.
_MOVED = {
  "data.cache": "data.cache.reading as cache",
  "data.cache_writing": "data.cache.writing as cache_writing",
  "data.cleaning": "data.text.cleaning",
  "data.live": "data.seqio.live",
  "data.sources": "data.seqio.sources",
  "data.test_sets": "data.text.test_sets",
  "data.tsv": "data.text.tsv",
  "data.vocabulary_training": "data.text.vocabulary_training",
  "evaluate.training_scores": "evaluate.groups",
  "layers.initializers": "layers.projections",
  "layers.products": "layers.projections",
  "moe.choices": "moe.config",
  "train.checkpoint_policy": "train.checkpoints.checkpoint_policy",
  "train.evaluator": "train.hooks.evaluator",
  "train.metric_writer": "train.metrics.metric_writer",
  "train.profiling": "train.hooks.profiling",
  "train.stall": "train.hooks.stall",
  "train.throughput": "train.hooks.throughput",
  "train.transfer": "train.initial",
  "train.trouble": "train.hooks.divergence",
  "train.validation_loss": "train.hooks.validation_loss",
  "train.watching": "train.monitoring",
}
# Classes and functions, by the module that they are in now.
_RENAMED = {
  "train.hooks.divergence": {"TroublePolicy": "DivergencePolicy"},
  "train.monitoring": {"Watching": "Monitoring"},
}
# Parameters, by the function or class that has them now.
_PARAMETERS = {
  "train.loop.train": {"trouble": "divergence", "watching": "monitoring"},
}
_PACKAGE = "taskmoe_jax."


def statement(
  old: config_parser.ImportStatement,
) -> config_parser.ImportStatement:
  """An import of a module that moved, from where it is now."""
  moved = _MOVED.get(old.module.removeprefix(_PACKAGE))
  if moved is None or not old.module.startswith(_PACKAGE):
    return old
  module, _, alias = moved.partition(" as ")
  # `import a.b` binds `a`, which no alias may replace.
  kept = old.alias or (alias if old.is_from and alias else None)
  return old._replace(module=_PACKAGE + module, alias=kept)


def selector(modules: Mapping[str, types.ModuleType], name: str) -> str:
  """`module.Class` with what these are called now.

  Args:
    modules: What the file imports, by the names that it has for them.
    name: As the file writes it.
  """
  first, *attributes = _module(modules, name).split(".")
  found: Any = modules.get(first)
  for position, attribute in enumerate(attributes):
    if inspect.ismodule(found) and not hasattr(found, attribute):
      renamed = _RENAMED.get(found.__name__.removeprefix(_PACKAGE), {})
      attributes[position] = renamed.get(attribute, attribute)
    found = getattr(found, attributes[position], None)
  return ".".join([first, *attributes])


def parameter(function: Callable[..., Any], name: str) -> str:
  """The name that a parameter of a function or class has now."""
  owner = f"{function.__module__}.{function.__qualname__}"
  renamed = _PARAMETERS.get(owner.removeprefix(_PACKAGE), {})
  if name in inspect.signature(function).parameters:
    return name
  return renamed.get(name, name)


def _module(modules: Mapping[str, types.ModuleType], name: str) -> str:
  """`name`, its module under the name by which it is imported."""
  for old, moved in _MOVED.items():
    new = _PACKAGE + moved.partition(" as ")[0]
    if name.startswith(f"{_PACKAGE}{old}.") and not name.startswith(f"{new}."):
      return new + name.removeprefix(_PACKAGE + old)
  first, dot, attributes = name.partition(".")
  if first in modules:
    return name
  for old, moved in _MOVED.items():
    if old.rpartition(".")[2] == first:
      new = _PACKAGE + moved.partition(" as ")[0]
      for local, module in modules.items():
        if module.__name__ == new:
          return f"{local}{dot}{attributes}"
  return name

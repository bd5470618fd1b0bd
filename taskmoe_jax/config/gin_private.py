"""All private attributes of gin that we use, in one place.

gin-config 0.5.0 parses a file, registers what it names and keeps the bindings,
but has no public access to bindings with their scopes, nor a parser that
reports file and line of a mistake in one line. So setup.py keeps gin below 0.6.
"""

import types
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import gin
from gin import config, config_parser


def bindings() -> Mapping[tuple[str, str], Mapping[str, Any]]:
  """What is bound now: `{(scope, selector): {parameter: value}}`.

  A macro `X = 3` is the parameter `value` of `gin.macro` in scope `X`.
  """
  return config._CONFIG


def unbind(scope: str, selector: str, parameter: str) -> None:
  """Forgets one binding."""
  parameters = config._CONFIG[scope, selector]
  del parameters[parameter]
  if not parameters:
    del config._CONFIG[scope, selector]


def parse_scope() -> AbstractContextManager[config.ParseContext]:
  """Opens the symbol table of one gin file: what it imports, it may name."""
  return config._parse_scope()


def symbols(context: config.ParseContext) -> Mapping[str, types.ModuleType]:
  """The modules that a file has imported, by the names it gave them."""
  return {
    name: module
    for name, module in context._symbol_table.items()
    if name != "gin"
  }


def remember_imports(statements: Iterable[config_parser.ImportStatement]):
  """Lets `gin.config_str` and command-line overrides see a file's imports."""
  config._IMPORTS.update(statements)


def all_imports() -> list[config_parser.ImportStatement]:
  """The imports of all files; of two with one name, gin renames the second."""
  return config.ImportManager(config._IMPORTS).sorted_imports


def wrapped(selector: str) -> Callable[..., Any]:
  """The plain function or class that was registered as `selector`."""
  return config._REGISTRY[selector].wrapped


def register_anew(configurable: config.Configurable) -> config.Configurable:
  """Puts a changed registration in the place of the one of its selector."""
  config._REGISTRY[configurable.selector] = configurable
  config._INVERSE_REGISTRY[configurable.wrapped] = configurable
  return configurable


def register(function: Callable[..., Any]) -> str:
  """Registers a function unless a gin file did; returns its selector."""
  known = config._INVERSE_REGISTRY.get(function)
  if known is None:
    gin.external_configurable(function, module=function.__module__)
    known = config._INVERSE_REGISTRY[function]
  return known.selector

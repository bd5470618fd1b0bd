"""Resolves names in gin files; errors list what is accepted."""

import inspect
import types
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gin
from gin import config, config_parser

from taskmoe_jax.config import gin_private, members, renames
from taskmoe_jax.errors import TaskMoeError, one_of

MACRO = "gin.macro"
# The kinds of parameters that gin can bind.
BINDABLE = (
  inspect.Parameter.POSITIONAL_OR_KEYWORD,
  inspect.Parameter.KEYWORD_ONLY,
)


class Key(NamedTuple):
  """One parameter of one function or class, in one scope."""

  scope: str
  selector: str
  parameter: str


class Binding(NamedTuple):
  """A value, the name that the user wrote for it, and where."""

  key: Key
  value: Any
  name: str
  place: str
  is_override: bool = False


class Delegate(config.ParserDelegate):
  """Builds references while parsing, with our errors in place of gin's."""

  def __init__(self, context: config.ParseContext):
    super().__init__()
    self._context = context

  def configurable_reference(self, scoped_selector: str, evaluate: bool):
    scope, slash, selector = scoped_selector.rpartition("/")
    selector = renames.selector(gin_private.symbols(self._context), selector)
    resolve(self._context, selector)
    return super().configurable_reference(f"{scope}{slash}{selector}", evaluate)


def bind(context: config.ParseContext, name: str, value: Any) -> Key:
  """Binds `scope/module.function.parameter`, or a macro if there is no dot."""
  scope, selector, parameter = config_parser.parse_binding_key(name)
  if not parameter:
    gin.bind_parameter((name, MACRO, "value"), value)
    return Key(name, MACRO, "value")
  selector = renames.selector(gin_private.symbols(context), selector)
  configurable = resolve(context, selector)
  parameter = renames.parameter(configurable.wrapped, parameter)
  _check_parameter(configurable.wrapped, selector, parameter)
  gin.bind_parameter((scope, selector, parameter), value)
  return Key(scope, configurable.selector, parameter)


def resolve(context: config.ParseContext, selector: str) -> config.Configurable:
  """Finds and registers the function or class that `selector` names.

  gin would do the same, but its errors do not list what is accepted.
  """
  first, *attributes = selector.split(".")
  if first == "gin":
    return context.get_configurable(selector)
  modules = gin_private.symbols(context)
  if first not in modules:
    raise TaskMoeError(
      f"{selector!r} is not imported here: {_imports(modules)}. A gin file"
      " imports what it binds, below `from __gin__ import"
      " dynamic_registration`."
    )
  found = modules[first]
  for position, attribute in enumerate(attributes):
    if not hasattr(found, attribute):
      owner = ".".join([first, *attributes[:position]])
      raise TaskMoeError(
        one_of(f"name in {owner}", attribute, _configurables(found)) + "."
      )
    found = getattr(found, attribute)
  if not inspect.isclass(found) and not inspect.isroutine(found):
    inside = _configurables(found) if inspect.ismodule(found) else []
    raise TaskMoeError(
      f"{selector!r} is not a function or class with parameters to bind;"
      f" inside it are {', '.join(inside) or 'none'}."
    )
  return members.converting(context.get_configurable(selector))


def _check_parameter(
  function: Callable[..., Any], selector: str, parameter: str
) -> None:
  """Refuses a binding for a parameter that `function` does not have."""
  signature = inspect.signature(function).parameters.values()
  if any(p.kind is p.VAR_KEYWORD for p in signature):
    return
  accepted = [p.name for p in signature if p.kind in BINDABLE]
  if parameter not in accepted:
    raise TaskMoeError(
      one_of(f"parameter of {selector}", parameter, accepted) + "."
    )


def _imports(modules: Mapping[str, types.ModuleType]) -> str:
  return f"imported are {', '.join(modules)}" if modules else "nothing is"


def _configurables(owner: Any) -> list[str]:
  """The classes and functions to bind in a module of a package, or a class."""
  package = getattr(owner, "__module__", owner.__name__).partition(".")[0]
  return [
    name
    for name, value in vars(owner).items()
    if not name.startswith("_")
    and (inspect.isclass(value) or inspect.isfunction(value))
    and value.__module__.startswith(package)
    and value.__module__ != "taskmoe_jax.errors"
  ]

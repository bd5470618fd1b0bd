"""Members of enums, from the strings that gin files write.

A recipe says `dispatch = 'capacity'`, a constructor takes a `Dispatch`. The
strings are converted as gin calls the constructor; its stored bindings keep
them, so that what a run directory keeps can be read again.
"""

import copy
import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any

import gin
from gin import config

from taskmoe_jax.config import gin_private
from taskmoe_jax.errors import as_member

# What `converting` has made; gin registers a function once a process.
_CONVERTING: set[Callable[..., Any]] = set()


def enum_of(hint: Any) -> type[Any] | None:
  """The enum that an annotation names, alone or in a union.

  Or a class whose objects have names, see `errors.members_of`. None if it names
  neither, or also `str`: then any string is right as it is.
  """
  union = typing.get_origin(hint) in (typing.Union, types.UnionType)
  kinds = typing.get_args(hint) if union else (hint,)
  if str in kinds:
    return None
  for kind in kinds:
    if inspect.isclass(kind) and (
      issubclass(kind, enum.Enum) or hasattr(kind, "by_name")
    ):
      return kind
  return None


def enum_parameters(
  function: Callable[..., Any],
) -> dict[str, type[Any]]:
  """The parameters of a function or class that take a member, and of what."""
  found = {}
  for name, parameter in inspect.signature(function).parameters.items():
    kind = enum_of(parameter.annotation)
    if kind is not None:
      found[name] = kind
  return found


def setting(function: Callable[..., Any], name: str) -> str:
  """How messages name a parameter: `MoeConfig.dispatch`, `loop.train.seed`."""
  if inspect.isclass(function):
    return f"{function.__name__}.{name}"
  module = function.__module__.rpartition(".")[-1]
  return f"{module}.{function.__name__}.{name}"


def members_of(
  function: Callable[..., Any], given: Mapping[str, Any]
) -> dict[str, Any]:
  """The members that strings among the arguments of `function` stand for.

  Raises:
    TaskMoeError: There is no such member.
  """
  return {
    name: as_member(kind, name, given[name], setting(function, name))
    for name, kind in enum_parameters(function).items()
    if isinstance(given.get(name), str)
  }


def converting(configurable: config.Configurable) -> config.Configurable:
  """Lets gin convert the strings that it gives to what it has registered.

  Only a function or class that takes an enum is registered anew. gin's wrapper
  reads the bindings when it is called, and what its caller supplies wins: so
  they are read once before it, and those of enums are supplied as members.
  """
  function, wrapper = configurable.wrapped, configurable.wrapper
  signature = inspect.signature(function)
  names = enum_parameters(function)
  if not names or wrapper in _CONVERTING:
    return configurable

  @functools.wraps(function, updated=())
  def call(*args: Any, **kwargs: Any) -> Any:
    bound = gin.get_bindings(configurable.selector, resolve_references=False)
    supplied = signature.bind_partial(*args, **kwargs).arguments
    left = {
      name: bound[name] for name in names.keys() & bound.keys() - supplied
    }
    # References, such as macros, are followed when they are copied.
    converted = members_of(function, copy.deepcopy(left))
    return wrapper(*args, **kwargs, **converted)

  _CONVERTING.add(call)
  return gin_private.register_anew(configurable._replace(wrapper=call))

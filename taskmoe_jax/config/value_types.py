"""Checks that the values that gin binds have the types that functions take.

gin passes on anything: without this check, `--gin.TRAIN_STEPS=3k` would reach
the training loop as a string, which would fail only after everything else is
set up.
"""

import collections.abc
import inspect
import types
import typing
from collections.abc import Collection
from typing import Any

from gin import config

from taskmoe_jax.config import gin_private
from taskmoe_jax.config.calls import Call, binding_name, calls_from
from taskmoe_jax.config.members import enum_of
from taskmoe_jax.config.names import MACRO
from taskmoe_jax.errors import TaskMoeError, as_member


def check_types(selector: str, supplied: Collection[str]) -> None:
  """Refuses a value that the annotation of its parameter does not allow.

  Every constructor below is checked, none is called. An int is a float (PEP
  484), but a bool is not an int. Items of a sequence, and parameters without
  annotation, are not checked.

  Args:
    selector: The function that is about to be called.
    supplied: Its parameters that do not come from gin.
  """
  for call, arguments in calls_from(selector, supplied):
    if call.selector == MACRO:
      continue
    function = gin_private.wrapped(call.selector)
    parameters = inspect.signature(function).parameters
    for name, (key, bound) in arguments.items():
      if name not in parameters:  # one of **options
        continue
      hint = parameters[name].annotation
      macro, value = _follow(bound)
      kind = _type_of(value)
      bound_in = call._replace(scope=tuple(key.scope.split("/")))
      to_set = macro or binding_name(bound_in, name)
      enum_kind = enum_of(hint)
      if enum_kind is not None and isinstance(value, str):
        _check_member(call, enum_kind, name, value, to_set)
      elif not _accepts(hint, kind):
        raise TaskMoeError(
          f"{name}={value!r} is of type {_name(kind)}: accepted is"
          f" {_name(hint)}. Set {to_set}."
        )


def _check_member(
  call: Call, kind: type[Any], name: str, value: str, to_set: str
) -> None:
  """Refuses a string that names no member of the enum of a parameter.

  With the parameter of a class, the message names the class, and where it is
  built: a macro would hide which of a model's stacks it is.
  """
  function = gin_private.wrapped(call.selector)
  if not inspect.isclass(function):
    as_member(kind, name, value, to_set)
    return
  try:
    as_member(kind, name, value, f"{function.__name__}.{name}")
  except TaskMoeError as error:
    scope = "/".join(call.scope)
    if not scope or (scope, MACRO) in gin_private.bindings():
      raise
    raise TaskMoeError(f"{error} (In {scope}/{function.__name__}.)") from None


def _follow(value: Any) -> tuple[str | None, Any]:
  """The last macro that leads to a value, and the value."""
  macro = None
  while (
    isinstance(value, config.ConfigurableReference)
    and value.configurable.selector == MACRO
  ):
    macro = "/".join(value.scopes)
    value = gin_private.bindings()[macro, MACRO]["value"]
  return macro, value


def _type_of(value: Any) -> Any:
  """The type that a value has, or will have once gin has built it."""
  if not isinstance(value, config.ConfigurableReference):
    return type(value)
  if not value.evaluate:
    return types.FunctionType
  built = gin_private.wrapped(value.configurable.selector)
  if inspect.isclass(built):
    return built
  return inspect.signature(built).return_annotation


def _accepts(hint: Any, kind: Any) -> bool:
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    return any(_accepts(choice, kind) for choice in typing.get_args(hint))
  hint = types.NoneType if hint is None else typing.get_origin(hint) or hint
  kind = typing.get_origin(kind) or kind
  unknown = (inspect.Parameter.empty, Any)
  if hint in unknown or kind in unknown:
    return True
  if not (inspect.isclass(hint) and inspect.isclass(kind)):
    return True
  if enum_of(hint) and kind is str:  # converted once it is built
    return True
  if kind in (str, bool):  # not as a sequence of letters, not as an int
    return hint is kind
  return issubclass(kind, hint) or (kind, hint) == (int, float)


def _name(hint: Any) -> str:
  """A type as written in an annotation, without its module."""
  if typing.get_origin(hint) in (typing.Union, types.UnionType):
    names = " or ".join(map(_name, typing.get_args(hint)))
    return " or ".join(dict.fromkeys(names.split(" or ")))
  hint = typing.get_origin(hint) or hint
  if hint in (types.FunctionType, collections.abc.Callable):
    return "function"
  if hint is types.NoneType:
    return "None"
  if enum_of(hint):
    return f"{hint.__name__} or str"
  return getattr(hint, "__name__", str(hint))

"""Calls a plain function with the arguments that gin files bind."""

import copy
import functools
import inspect
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

import gin
from gin import config

from taskmoe_jax.config import gin_private, members
from taskmoe_jax.config.calls import binding_name, calls_from
from taskmoe_jax.config.names import BINDABLE, MACRO
from taskmoe_jax.config.value_types import check_types
from taskmoe_jax.errors import TaskMoeError


def configured(function: Callable[..., Any]) -> Callable[..., Any]:
  """Returns `function` with its unsupplied arguments taken from gin.

  gin builds only the arguments; the function itself is called directly. gin's
  wrapper would replace every exception of a run by a copy with extra lines in
  its message, and hide what was caught where.

  Arguments that the caller supplies override bindings; see `arguments`.
  """

  @functools.wraps(function)
  def call(**supplied):
    return function(**arguments(function, supplied), **supplied)

  return call


def arguments(
  function: Callable[..., Any], supplied: Collection[str] = ()
) -> dict[str, Any]:
  """Builds the arguments that gin binds, without calling `function`.

  Args:
    function: A plain function, such as the top function of a command.
    supplied: Its parameters that the caller supplies instead of gin.

  Raises:
    TaskMoeError: A parameter without default is neither supplied nor bound,
      here or in any constructor below: all of them are named before anything is
      built. Or a value has another type than its parameter.
  """
  selector = gin_private.register(function)
  missing = list(dict.fromkeys(_missing(selector, supplied)))
  if missing:
    raise TaskMoeError(
      f"{function.__name__} needs a value for {', '.join(missing)}. Bind in a"
      f" gin file, or as --gin.{missing[0]}=VALUE."
    )
  check_types(selector, supplied)
  bound = gin.get_bindings(function, resolve_references=False)
  for name in supplied:
    bound.pop(name, None)
  try:
    # gin's references build what they name when they are copied.
    built = copy.deepcopy(bound)
  except TaskMoeError as error:
    raise TaskMoeError(_one_line(error)).with_traceback(
      error.__traceback__
    ) from None
  return built | members.members_of(function, built)


def _missing(selector: str, supplied: Collection[str]) -> Iterator[str]:
  """Names of bindings to set, in the order in which calls need them."""
  given = set(supplied)
  for call, bound in calls_from(selector, supplied):
    for name, (_, value) in bound.items():
      if _is_required(value):
        yield binding_name(call, name)
    if call.selector != MACRO:
      # A function that is passed on gets the others from the program.
      settings = (inspect.Parameter.KEYWORD_ONLY,)
      kinds = BINDABLE if call.evaluated else settings
      function = gin_private.wrapped(call.selector)
      for parameter in inspect.signature(function).parameters.values():
        if (
          parameter.kind in kinds
          and parameter.default is parameter.empty
          and parameter.name not in given | bound.keys()
        ):
          yield binding_name(call, parameter.name)
    # Only the first call has supplied arguments.
    given = set()


def _is_required(value: Any) -> bool:
  """Whether a value is gin's placeholder `%gin.REQUIRED`."""
  return (
    isinstance(value, config.ConfigurableReference)
    and value.scoped_selector == "gin.REQUIRED/gin.constant"
  )


def _one_line(error: TaskMoeError) -> str:
  """The message, with the scope in which it was raised if gin names one.

  gin appends lines, the innermost call first: `In call to configurable
  'StackConfig' (<class ...>) in scope 'decoder'`. The scope of a macro is left
  out: nobody wrote it.
  """
  message, _, appended = str(error).partition("\n")
  scoped = re.match(r".*'(\w+)' \(.*\) in scope '(\S+)'", appended)
  if not scoped or (scoped[2], MACRO) in gin_private.bindings():
    return message
  return f"{message} (In {scoped[2]}/{scoped[1]}.)"

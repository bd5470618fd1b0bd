"""Refuses gin bindings that would silently do nothing.

gin itself accepts a misspelt macro, and a binding for a constructor that is
never called. A run of days must not start with either.
"""

import difflib
from collections.abc import Iterable, Sequence

from gin import config

from taskmoe_jax.config import gin_private
from taskmoe_jax.config.calls import calls_from, ever_led_to
from taskmoe_jax.config.names import MACRO, Binding, Key
from taskmoe_jax.errors import TaskMoeError, one_of


def check_macros_exist(bindings: Iterable[Binding]) -> None:
  """Refuses a `%MACRO` that nothing defines, and lists those that exist."""
  last = {binding.key: binding for binding in bindings}
  macros = [key.scope for key in last if key.selector == MACRO]
  for binding in last.values():
    for reference in config.iterate_references(binding.value):
      name = "/".join(reference.scopes)
      if reference.configurable.selector == MACRO and name not in macros:
        raise TaskMoeError(
          f"{binding.name} ({binding.place}): {one_of('macro', name, macros)}."
        )


def check_all_used(
  top_functions: Iterable[str], bindings: Sequence[Binding]
) -> set[Key]:
  """Refuses bindings that no command of ours would read.

  Recipes serve several commands, so that a binding is right if the top function
  of *any* command leads to it, through macros, references and scopes. Nothing
  is built to find out: references are followed as gin would, and a mistake
  stops before the first import of what costs seconds.

  What one gin file says, a later one may override, which can leave behind what
  only the overridden binding led to: a dense decoder does not read the experts
  of the file it includes. Such bindings are right too, in files. On the command
  line, which comes last, a binding must have an effect.

  Args:
    top_functions: Of all commands, as `module.name` where they are defined.
    bindings: All, in the order in which they were made.

  Returns:
    What overridden bindings have left behind: right, but read by nothing.
  """
  top_functions = set(top_functions)
  selectors = {
    selector
    for _, selector in gin_private.bindings()
    if _full_name(selector) in top_functions
  }
  read = {
    key
    for selector in selectors
    for _, arguments in calls_from(selector)
    for key, _ in arguments.values()
  }
  accepted = ever_led_to(selectors, bindings)
  last = {binding.key: binding for binding in bindings}
  unread = [
    _describe(binding, last, read)
    for key, binding in last.items()
    if key not in (read if binding.is_override else accepted)
  ]
  if unread:
    raise TaskMoeError(
      f"bound in gin but read by nothing: {'; '.join(unread)}. Correct the"
      " name, or remove the binding."
    )
  return set(last) - read


def _full_name(selector: str) -> str:
  """Where a function is defined, whatever name a gin file gave its module."""
  function = gin_private.wrapped(selector)
  return f"{function.__module__}.{function.__qualname__}"


def _describe(
  binding: Binding, last: dict[Key, Binding], read: set[Key]
) -> str:
  """Names an unread binding, its place, and what was probably meant."""
  scope, *function = binding.key
  inner = [
    last[key].name
    for key in last
    if key in read
    and key[1:] == tuple(function)
    and key.selector != MACRO
    and key.scope.startswith(f"{scope}/" if scope else "")
  ]
  scopes = sorted({key.scope for key in read})
  close = difflib.get_close_matches(scope, scopes, n=1)
  hint = ""
  if inner:
    hint = f"; overridden by {', '.join(inner)}"
  elif close and scope not in scopes:
    hint = f"; did you mean {close[0]}?"
  return f"{binding.name} ({binding.place}{hint})"

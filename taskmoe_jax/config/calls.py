"""Which calls gin would make, and which bindings they read."""

from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from gin import config

from taskmoe_jax.config import gin_private
from taskmoe_jax.config.names import MACRO, Binding, Key


class Call(NamedTuple):
  """A call that gin makes or, if not `evaluated`, leaves to the program."""

  scope: tuple[str, ...]
  selector: str
  evaluated: bool = True

  def scopes(self) -> list[str]:
    """The scopes whose bindings it reads, outermost first."""
    depths = range(len(self.scope) + 1)
    return ["/".join(self.scope[:depth]) for depth in depths]

  def calls_in(self, value: Any) -> Iterator["Call"]:
    """The calls that an argument's value asks for.

    Their scope is the one written at the reference, else that of this call. So
    a scope is inherited, but a macro replaces it: `%X` is `@X/gin.macro()`.
    """
    for reference in config.iterate_references(value):
      selector = reference.configurable.selector
      written = tuple(reference.scopes)
      yield Call(written or self.scope, selector, reference.evaluate)
      if not reference.evaluate:
        # The program may call it later, outside of any scope.
        yield Call(written, selector, evaluated=False)


Arguments = dict[str, tuple[Key, Any]]


def calls_from(
  selector: str, supplied: Collection[str] = ()
) -> Iterator[tuple[Call, Arguments]]:
  """All calls that one of `selector` leads to, found without making any.

  Args:
    selector: What is called first, in no scope.
    supplied: Its parameters that the caller gives, so that gin does not.

  Returns:
    Each call once, with the bindings that it reads by parameter.
  """
  top = Call((), selector)
  pending, seen = [top], set()
  while pending:
    call = pending.pop(0)
    if call in seen:
      continue
    seen.add(call)
    arguments = _arguments(call)
    if call == top:
      arguments = {k: v for k, v in arguments.items() if k not in supplied}
    yield call, arguments
    for _, value in arguments.values():
      pending.extend(call.calls_in(value))


def ever_led_to(
  selectors: Iterable[str], bindings: Iterable[Binding]
) -> set[Key]:
  """The bindings that calls would read if none were overridden.

  That is, were none replaced by a later one, or by one for an inner scope.
  """
  pending = [Call((), selector) for selector in selectors]
  seen, found = set(), set()
  while pending:
    call = pending.pop()
    if call in seen:
      continue
    seen.add(call)
    for key, value, *_ in bindings:
      if key.selector == call.selector and key.scope in call.scopes():
        found.add(key)
        pending.extend(call.calls_in(value))
  return found


def binding_name(call: Call, parameter: str) -> str:
  """What a user binds, to set a parameter of a call."""
  scope = "/".join(call.scope)
  if call.selector == MACRO:
    return scope
  # What a macro holds is built in a scope named after the macro, which is not
  # how it is bound.
  if not scope or (scope, MACRO) in gin_private.bindings():
    prefix = ""
  else:
    prefix = f"{scope}/"
  return f"{prefix}{'.'.join(call.selector.split('.')[-2:])}.{parameter}"


def _arguments(call: Call) -> Arguments:
  """The bindings that a call reads; those of inner scopes win."""
  bindings = gin_private.bindings()
  return {
    parameter: (Key(scope, call.selector, parameter), value)
    for scope in call.scopes()
    for parameter, value in bindings.get((scope, call.selector), {}).items()
  }

"""The one error that users see, and how it lists what is accepted."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

Member = TypeVar("Member")


class TaskMoeError(ValueError):
  """A mistake the user can mend.

  The message is one line: what is wrong with which value, what is accepted,
  and where to set it (a gin binding, a flag, or a file and line). Our own bugs
  are `assert`s and never this class.
  """


def one_of(name: str, value: object, accepted: Iterable[object]) -> str:
  """Says that `value` is not among the accepted ones, and names the closest.

  Args:
    name: What the value is, in the words of docs/design/design.md ("pair").
    value: What was found.
    accepted: Everything that would have been right, in the order to print.

  Returns:
    A phrase such as `unknown task 'dee': accepted are de, en, fr (did you mean
    'de'?)`, to which the caller adds where the value is set.
  """
  names = [str(choice) for choice in accepted]
  close = difflib.get_close_matches(str(value), names, n=1)
  hint = f" (did you mean {close[0]!r}?)" if close else ""
  return f"unknown {name} {str(value)!r}: accepted are {', '.join(names)}{hint}"


def members_of(kind: type[Any]) -> Mapping[str, Any]:
  """What the texts of gin and JSON stand for, by these texts.

  Args:
    kind: An enum, or a class whose `by_name` gives some objects names.
  """
  if hasattr(kind, "by_name"):
    return kind.by_name()
  return {member.value: member for member in kind}


def as_member(
  kind: type[Member], name: str, value: object, setting: str
) -> Member:
  """Returns the member of an enum that a text from gin or JSON stands for.

  Args:
    kind: The enum, see `members_of`.
    name: What the value is, see `one_of`.
    value: A member or its value.
    setting: What to set, if there is no such member.
  """
  if isinstance(value, kind):
    return value
  members = members_of(kind)
  if not (isinstance(value, str) and value in members):
    raise TaskMoeError(f"{one_of(name, value, members)}. Set {setting}.")
  return members[value]


def as_members(
  kinds: Mapping[str, type[Any]], owner: str, values: Mapping[str, Any]
) -> dict[str, Any]:
  """Returns the arguments of a class, with members in place of texts.

  Args:
    kinds: The enum of each parameter that takes one.
    owner: Whose parameters they are, as gin binds them ("ModelConfig").
    values: The arguments, as JSON or a gin file has them.
  """
  return dict(values) | {
    name: as_member(kind, name, values[name], f"{owner}.{name}")
    for name, kind in kinds.items()
    if isinstance(values.get(name), str)
  }


def check_members(owner: str, **members: tuple[type[Any], object]) -> None:
  """Refuses values that are not members: texts are for gin files and JSON.

  Args:
    owner: Whose parameters they are, as gin binds them ("ModelConfig").
    **members: The enum and the value, by the parameters' names.
  """
  for name, (kind, value) in members.items():
    if not isinstance(value, kind):
      owning = kind.__name__
      if hasattr(kind, "by_name"):
        # Constants of its module.
        owning = kind.__module__.rpartition(".")[-1]
      accepted = ", ".join(
        f"{owning}.{text.upper()}" for text in members_of(kind)
      )
      raise TaskMoeError(
        f"{name}={value!r} is not a {kind.__name__}: accepted are {accepted}."
        f" Set {owner}.{name}."
      )


def check_at_least(least: int, owner: str, **values: int | float) -> None:
  """Refuses values below `least`.

  Args:
    least: The smallest that is right.
    owner: Whose parameters they are, as gin binds them ("ModelConfig").
    **values: By the parameters' names.
  """
  for name, value in values.items():
    if not value >= least:
      raise TaskMoeError(
        f"{name}={value} is not at least {least}. Set {owner}.{name}."
      )

"""The one error that users see, and how it lists what is accepted."""

import difflib
import enum
from collections.abc import Iterable


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
  accepted = [str(choice) for choice in accepted]
  close = difflib.get_close_matches(str(value), accepted, n=1)
  hint = f" (did you mean {close[0]!r}?)" if close else ""
  return (
    f"unknown {name} {str(value)!r}: accepted are {', '.join(accepted)}{hint}"
  )


def as_member(
  kind: type[enum.Enum], name: str, value: object, setting: str
) -> enum.Enum:
  """Returns the member of an enum that a text from gin or JSON stands for.

  Args:
    kind: The enum.
    name: What the value is, see `one_of`.
    value: A member or its value.
    setting: What to set, if there is no such member.
  """
  try:
    return kind(value)
  except ValueError:
    raise TaskMoeError(f"{one_of(name, value, kind)}. Set {setting}.") from None


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

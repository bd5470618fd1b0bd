import enum

import pytest

from taskmoe_jax.errors import TaskMoeError, one_of


class Fruit(enum.StrEnum):
  PEAR = "pear"
  PLUM = "plum"


@pytest.mark.parametrize(
  ("value", "accepted", "expected"),
  [
    (
      "dee",
      ["fr", "de", "en"],
      "unknown task 'dee': accepted are fr, de, en (did you mean 'de'?)",
    ),
    ("zz", ("fr", "de"), "unknown task 'zz': accepted are fr, de"),
    (7, [11, 70], "unknown task '7': accepted are 11, 70 (did you mean '70'?)"),
    (
      "plumb",
      Fruit,
      "unknown task 'plumb': accepted are pear, plum (did you mean 'plum'?)",
    ),
    ("a", iter(["b", "c"]), "unknown task 'a': accepted are b, c"),
  ],
)
def test_one_of(value, accepted, expected):
  assert one_of("task", value, accepted) == expected


def test_it_is_caught_as_a_value_error():
  with pytest.raises(ValueError, match=r"^wrong$"):
    raise TaskMoeError("wrong")

import enum

import pytest

from taskmoe_jax.errors import TaskMoeError, check_at_least, one_of


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


def test_check_at_least():
  check_at_least(1, "Model", layers=1, heads=2.5)
  message = r"heads=0 is not at least 1\. Set Model\.heads\."
  with pytest.raises(TaskMoeError, match=message):
    check_at_least(1, "Model", layers=1, heads=0)
  with pytest.raises(TaskMoeError, match="rate=nan is not at least 0"):
    check_at_least(0, "Model", rate=float("nan"))

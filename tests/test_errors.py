import enum

import pytest

from taskmoe_jax.errors import (
  TaskMoeError,
  as_member,
  as_members,
  check_at_least,
  check_members,
  one_of,
)
from taskmoe_jax.moe.granularity import TASK, Granularity


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


def test_texts_become_members():
  assert as_member(Fruit, "fruit", "plum", "Cake.fruit") is Fruit.PLUM
  assert as_member(Fruit, "fruit", Fruit.PEAR, "Cake.fruit") is Fruit.PEAR
  assert as_member(Granularity, "granularity", "task", "it") == TASK
  values = {"fruit": "plum", "other": None, "size": 3}
  kinds = {"fruit": Fruit, "other": Fruit, "missing": Fruit}
  assert as_members(kinds, "Cake", values) == {**values, "fruit": Fruit.PLUM}
  with pytest.raises(TaskMoeError) as error:
    as_members(kinds, "Cake", {"fruit": "plumb"})
  assert str(error.value) == (
    "unknown fruit 'plumb': accepted are pear, plum (did you mean 'plum'?)."
    " Set Cake.fruit."
  )


def test_a_text_is_no_member():
  """Constructors take members, gin files and JSON texts."""
  check_members("Cake", fruit=(Fruit, Fruit.PEAR))
  with pytest.raises(TaskMoeError) as error:
    check_members("Cake", fruit=(Fruit, "pear"))
  assert str(error.value) == (
    "fruit='pear' is not a Fruit: accepted are Fruit.PEAR, Fruit.PLUM. Set"
    " Cake.fruit."
  )
  with pytest.raises(TaskMoeError) as error:
    check_members("MoeConfig", granularity=(Granularity, "task"))
  assert str(error.value) == (
    "granularity='task' is not a Granularity: accepted are granularity.TOKEN,"
    " granularity.SENTENCE, granularity.TASK, granularity.STATIC,"
    " granularity.WORD, granularity.TASK_THEN_TOKEN. Set"
    " MoeConfig.granularity."
  )

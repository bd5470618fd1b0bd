"""By hand: four languages, not in alphabetical order, and four pairs."""

import json

import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.task_space import TaskBy, TaskSpace, split_pair

LANGUAGES = ("en", "ro", "de", "fr")
PAIRS = ("de-en", "en-fr", "ro-en", "en-de")


def space(task_by):
  return TaskSpace.from_dict(
    {"languages": LANGUAGES, "pairs": PAIRS, "task_by": task_by}
  )


@pytest.mark.parametrize(
  ("task_by", "tasks", "table"),
  [
    # Rows are sources and columns targets: en ro de fr.
    (
      "target",
      ("en", "de", "fr"),  # nothing is translated into ro
      [[0, -1, 1, 2], [0, -1, 1, 2], [0, -1, 1, 2], [0, -1, 1, 2]],
    ),
    (
      "source",
      ("en", "ro", "de"),  # nothing is translated from fr
      [[0, 0, 0, 0], [1, 1, 1, 1], [2, 2, 2, 2], [-1, -1, -1, -1]],
    ),
    (
      "pair",
      ("de-en", "en-fr", "ro-en", "en-de"),
      [[-1, -1, 3, 1], [2, -1, -1, -1], [0, -1, -1, -1], [-1, -1, -1, -1]],
    ),
  ],
)
def test_tasks_and_their_table(task_by, tasks, table):
  assert space(task_by).tasks == tasks
  np.testing.assert_array_equal(space(task_by).task_table, table)
  assert space(task_by).task_table.dtype == np.int32
  assert [space(task_by).task_id(task) for task in tasks] == list(
    range(len(tasks))
  )


@pytest.mark.parametrize("task_by", TaskBy)
def test_pair_table(task_by):
  """The same however rows are routed."""
  table = [[-1, -1, 3, 1], [2, -1, -1, -1], [0, -1, -1, -1], [-1] * 4]
  np.testing.assert_array_equal(space(task_by).pair_table, table)
  assert space(task_by).pair_table.dtype == np.int32
  assert [space(task_by).pair_id(pair) for pair in PAIRS] == [0, 1, 2, 3]


def test_tables_agree_with_names():
  for task_by in TaskBy:
    this = space(task_by)
    for pair in PAIRS:
      source, target = map(this.language_id, split_pair(pair))
      task = this.tasks[this.task_table[source, target]]
      assert task == this.task_of_pair(pair)
      assert pair in this.pairs_of_task(task)


def test_pairs_of_a_task():
  assert space("target").pairs_of_task("en") == ("de-en", "ro-en")
  assert space("source").pairs_of_task("en") == ("en-fr", "en-de")
  assert space("pair").pairs_of_task("ro-en") == ("ro-en",)


def test_unseen_pairs_have_a_task_where_their_language_has_one():
  assert space("target").task_of_pair("fr-de") == "de"
  assert space("source").task_of_pair("ro-fr") == "ro"
  with pytest.raises(TaskMoeError) as error:
    space("pair").task_of_pair("fr-de")
  assert str(error.value).startswith(
    "unknown task 'fr-de': accepted are de-en, en-fr, ro-en, en-de"
  )
  with pytest.raises(
    TaskMoeError, match=r"^unknown task 'ro': accepted are en, de, fr\.$"
  ):
    space("target").task_of_pair("de-ro")


def test_languages_are_read_off_pairs_in_their_order():
  this = TaskSpace.from_pairs(("ro-en", "en-de", "de-ro"), "target")
  assert this.languages == ("ro", "en", "de")
  assert this.tasks == ("ro", "en", "de")
  assert this.task_by is TaskBy.TARGET


@pytest.mark.parametrize("task_by", TaskBy)
def test_json_and_back(task_by):
  this = space(task_by)
  text = json.dumps(this.to_dict())
  assert json.loads(text) == {
    "languages": list(LANGUAGES),
    "pairs": list(PAIRS),
    "task_by": task_by.value,
  }
  again = TaskSpace.from_dict(json.loads(text))
  assert again == this
  assert again.tasks == this.tasks


def test_tasks_are_by_target_unless_said():
  assert TaskSpace(LANGUAGES, PAIRS).task_by is TaskBy.TARGET


@pytest.mark.parametrize("pair", ["de", "-de", "de-", "de-en-fr", "-", ""])
def test_what_is_no_pair(pair):
  message = (
    f"{pair!r} is not a pair: write source and target language with one dash,"
    " such as 'de-en'."
  )
  with pytest.raises(TaskMoeError) as error:
    split_pair(pair)
  assert str(error.value) == message
  with pytest.raises(TaskMoeError, match="is not a pair"):
    TaskSpace(LANGUAGES, (pair,))


def test_languages_of_scripts_and_regions_are_one_word():
  assert split_pair("zh_Hant-pt_BR") == ("zh_Hant", "pt_BR")


@pytest.mark.parametrize(
  ("ask", "message"),
  [
    (
      lambda: space("targets"),
      "unknown task_by 'targets': accepted are target, source, pair"
      " (did you mean 'target'?). Set TASK_BY.",
    ),
    (
      lambda: TaskSpace(("en", "de"), ("en-fi",)),
      "unknown language 'fi': accepted are en, de.",
    ),
    (
      lambda: space("target").language_id("rom"),
      "unknown language 'rom': accepted are en, ro, de, fr"
      " (did you mean 'ro'?).",
    ),
    (
      lambda: space("target").pair_id("en-ro"),
      "unknown pair 'en-ro': accepted are de-en, en-fr, ro-en, en-de"
      " (did you mean 'en-fr'?).",
    ),
    (
      lambda: space("target").task_id("zh"),
      "unknown task 'zh': accepted are en, de, fr.",
    ),
    (
      lambda: space("target").pairs_of_task("zh"),
      "unknown task 'zh': accepted are en, de, fr.",
    ),
  ],
)
def test_unknown_names(ask, message):
  with pytest.raises(TaskMoeError) as error:
    ask()
  assert str(error.value) == message

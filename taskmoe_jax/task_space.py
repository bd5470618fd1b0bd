"""Languages, pairs and tasks of a run: plain data, saved with every checkpoint.

A *pair* `de-en` is what a row of data belongs to; a *task* is what is routed
on. With `task_by = "target"` both `de-en` and `fr-en` belong to task `en`:

  >>> space = TaskSpace(("en", "de", "fr"), ("en-de", "de-en", "fr-en"))
  >>> space.tasks
  ('en', 'de', 'fr')
  >>> space.task_of_pair("fr-en")
  'en'
"""

import dataclasses
import enum
import functools
from typing import Any

import numpy as np

from taskmoe_jax.errors import TaskMoeError, as_member, check_members, one_of


class TaskBy(enum.StrEnum):
  """What makes two rows the same task (section 3.1 of the paper)."""

  TARGET = "target"
  SOURCE = "source"
  PAIR = "pair"


def split_pair(pair: str) -> tuple[str, str]:
  """Returns the source and target language of a pair such as `de-en`."""
  source, dash, target = pair.partition("-")
  if not (source and dash and target) or "-" in target:
    raise TaskMoeError(
      f"{pair!r} is not a pair: write source and target language with one"
      " dash, such as 'de-en'."
    )
  return source, target


@dataclasses.dataclass(frozen=True)
class TaskSpace:
  """The ordered languages and pairs of a run, and what it routes on.

  Ids are positions in these tuples; later commands take names, never ids.
  """

  languages: tuple[str, ...]
  pairs: tuple[str, ...]
  task_by: TaskBy = TaskBy.TARGET

  def __post_init__(self):
    check_members("TaskSpace", task_by=(TaskBy, self.task_by))
    for pair in self.pairs:
      for language in split_pair(pair):
        self.language_id(language)

  @classmethod
  def from_pairs(
    cls, pairs: tuple[str, ...], task_by: TaskBy | str
  ) -> "TaskSpace":
    """Reads the languages off the pairs, in order of first appearance.

    Args:
      pairs: In the order of their ids.
      task_by: A member, or its value, as recipes have it.
    """
    languages = dict.fromkeys(
      language for pair in pairs for language in split_pair(pair)
    )
    return cls(
      tuple(languages),
      tuple(pairs),
      as_member(TaskBy, "task_by", task_by, "TASK_BY"),
    )

  @functools.cached_property
  def tasks(self) -> tuple[str, ...]:
    """Names of the tasks; a task id is a position in this tuple."""
    if self.task_by is TaskBy.PAIR:
      return self.pairs
    side = 0 if self.task_by is TaskBy.SOURCE else 1
    used = {split_pair(pair)[side] for pair in self.pairs}
    return tuple(name for name in self.languages if name in used)

  def language_id(self, language: str) -> int:
    return _position("language", language, self.languages)

  def pair_id(self, pair: str) -> int:
    return _position("pair", pair, self.pairs)

  def task_id(self, task: str) -> int:
    return _position("task", task, self.tasks)

  def task_of_pair(self, pair: str) -> str:
    """Returns the task of a pair, which need not be one seen in training.

    An unseen pair (zero-shot) has a task as long as its languages do; routed
    by pair it has none, which the paper leaves open, and is an error.
    """
    name = self._task_name(*split_pair(pair))
    self.task_id(name)
    return name

  def _task_name(self, source: str, target: str) -> str:
    return {
      TaskBy.TARGET: target,
      TaskBy.SOURCE: source,
      TaskBy.PAIR: f"{source}-{target}",
    }[self.task_by]

  def pairs_of_task(self, task: str) -> tuple[str, ...]:
    self.task_id(task)
    return tuple(p for p in self.pairs if self.task_of_pair(p) == task)

  @functools.cached_property
  def task_table(self) -> np.ndarray:
    """Task ids `[source language, target language]`; -1 where there is none."""
    size = len(self.languages)
    table = np.full((size, size), -1, np.int32)
    for i, source in enumerate(self.languages):
      for j, target in enumerate(self.languages):
        name = self._task_name(source, target)
        if name in self.tasks:
          table[i, j] = self.tasks.index(name)
    return table

  @functools.cached_property
  def pair_table(self) -> np.ndarray:
    """Pair ids `[source language, target language]`; -1 where there is none."""
    size = len(self.languages)
    table = np.full((size, size), -1, np.int32)
    for index, pair in enumerate(self.pairs):
      source, target = map(self.language_id, split_pair(pair))
      table[source, target] = index
    return table

  def to_dict(self) -> dict[str, Any]:
    return {
      "languages": list(self.languages),
      "pairs": list(self.pairs),
      "task_by": str(self.task_by),
    }

  @classmethod
  def from_dict(cls, values: dict[str, Any]) -> "TaskSpace":
    return cls(
      tuple(values["languages"]),
      tuple(values["pairs"]),
      as_member(TaskBy, "task_by", values["task_by"], "TASK_BY"),
    )


def _position(kind: str, name: str, names: tuple[str, ...]) -> int:
  if name not in names:
    raise TaskMoeError(one_of(kind, name, names) + ".")
  return names.index(name)

"""Test sets by their sacrebleu names: `wmt19`, `wmt20/dev`, `iwslt17`, ...

Scores are comparable only if everyone scores the same lines, and sacrebleu's
names are how the field says which. The lines are exactly those that sacrebleu
stores and that its own `sacrebleu -t wmt19 -l de-en` scores.
"""

import contextlib
import dataclasses
import io
import logging
import os
from collections.abc import Sequence
from typing import ClassVar

import sacrebleu
import sacrebleu.utils

from taskmoe_jax.errors import TaskMoeError, one_of


@dataclasses.dataclass(frozen=True)
class TestSet:
  """The lines of a test set.

  Attributes:
    sources: One line per sentence.
    references: One list per translator, each as long as `sources`, in
      sacrebleu's order, so that its metrics take them as they are.
  """

  __test__: ClassVar[bool] = False  # not a test for pytest to collect

  sources: list[str]
  references: list[list[str]]


def test_set_names() -> list[str]:
  """The names that sacrebleu knows, newest first."""
  return sacrebleu.get_available_testsets()


def test_set_pairs(name: str) -> list[str]:
  """The pairs of a test set."""
  if name not in sacrebleu.DATASETS:
    raise TaskMoeError(
      one_of("sacrebleu test set", name, test_set_names()) + "."
    )
  return list(sacrebleu.DATASETS[name].langpairs)


def read_test_set(name: str, pair: str) -> TestSet:
  """Returns a pair of a test set, from sacrebleu's cache or downloaded to it.

  Both directions of a pair may be different sentences: since 2019 WMT's
  sources are what was written in their language.

  Raises:
    TaskMoeError: There is none of that name or pair, it is not in the cache
      and cannot be downloaded, or what is in the cache is incomplete.
  """
  pairs = test_set_pairs(name)
  if pair not in pairs:
    raise TaskMoeError(one_of(f"pair of sacrebleu's {name}", pair, pairs) + ".")
  source_file, reference_files = _files(name, pair)
  sources = _lines(source_file)
  references = [_lines(file) for file in reference_files]
  sizes = [len(lines) for lines in (sources, *references)]
  if not sizes[0] or len(set(sizes)) > 1 or len(sizes) < 2:
    raise TaskMoeError(
      f"{source_file}: the source and the references of {name} {pair} have"
      f" {' and '.join(map(str, sizes))} lines: not the whole test set, as"
      f" after an interrupted download. Delete {_folder(name)} and run again."
    )
  return TestSet(sources, references)


def _files(name: str, pair: str) -> tuple[str, Sequence[str]]:
  """Paths of the source and the references; downloads them if needed."""
  dataset = sacrebleu.DATASETS[name]
  said = io.StringIO()
  listener = logging.StreamHandler(said)
  logger = logging.getLogger("sacrebleu")
  logger.addHandler(listener)
  try:
    with contextlib.redirect_stderr(said):
      return dataset.get_source_file(pair), dataset.get_reference_files(pair)
  # sacrebleu has no error of its own: a missing network is an OSError, a wrong
  # checksum ends the program, and a broken archive raises what its reader does.
  except (Exception, SystemExit) as error:
    _remove_empty_files(name)
    reason = " ".join((said.getvalue() or str(error)).split())
    raise TaskMoeError(
      f"sacrebleu's test set {name} {pair} is not in {_folder(name)} and"
      f" cannot be downloaded ({reason}). Where there is a network run"
      f" `sacrebleu -t {name} -l {pair} --echo src`, then copy that folder"
      " here; the environment variable SACREBLEU says where else to look."
    ) from None
  finally:
    logger.removeHandler(listener)


def _remove_empty_files(name: str) -> None:
  """So that sacrebleu does not take what failed for an empty test set."""
  for folder, _, files in os.walk(_folder(name)):
    for file in files:
      path = os.path.join(folder, file)
      if os.path.getsize(path) == 0:
        os.remove(path)


def _folder(name: str) -> str:
  # A private name, because there is no public one.
  return sacrebleu.DATASETS[name]._outdir


def _lines(path: str) -> list[str]:
  # Not splitlines: it would split at characters that are part of a sentence.
  with sacrebleu.utils.smart_open(path) as file:
    return file.read().removesuffix("\n").split("\n")

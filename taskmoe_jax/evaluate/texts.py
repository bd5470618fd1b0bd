"""What is translated and scored: sources and references by pair.

From a part of a mixture, a file of two columns, a folder of such files, or a
test set that sacrebleu knows by name. No text is normalized or left out: a
score that does not cover the whole test set is not a score.
"""

import dataclasses
import gzip
import pathlib
import re
import zlib
from collections.abc import Mapping, Sequence

from taskmoe_jax.data.corpus import Corpus, examples
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.text.test_sets import read_test_set, test_set_pairs
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.task_space import TaskSpace, split_pair
from taskmoe_jax.tasks.tsv import tsv

PARTS = ("validation", "test")


@dataclasses.dataclass(frozen=True)
class PairText:
  """The text of one pair.

  Attributes:
    sources: One line each.
    references: One list for each translator (mostly there is one), each as long
      as `sources`.
  """

  sources: Sequence[str]
  references: Sequence[Sequence[str]]

  @classmethod
  def of_rows(cls, rows: Sequence[tuple[str, str]]) -> "PairText":
    sources, references = zip(*rows, strict=True)
    return cls(sources, [references])


@dataclasses.dataclass(frozen=True)
class Text:
  """Sources and references to evaluate on.

  Attributes:
    name: Short; results are kept under it.
    origin: Where the text is from, in words.
    pairs: The text of each pair.
  """

  name: str
  origin: str
  pairs: Mapping[str, PairText]


def check_part(part: str) -> None:
  if part not in PARTS:
    raise TaskMoeError(one_of("part", part, PARTS) + ". Set --part.")


def check_limit(limit: int | None) -> None:
  if limit is not None and limit < 1:
    raise TaskMoeError(
      f"{limit} examples are too few: at least 1. Set --examples."
    )


def of_corpus(
  corpus: Corpus,
  *,
  part: str,
  pairs: Sequence[str] | None,
  space: TaskSpace,
  limit: int | None,
) -> Text:
  """Takes one part of a mixture.

  Args:
    corpus: The mixture.
    part: `validation` or `test`.
    pairs: Which; unless given, all that have this part and that the model can
      translate.
    space: What the model can translate.
    limit: How many sentences of each pair, from the first; None for all.
  """
  check_part(part)
  chosen = pairs or [
    pair
    for pair in corpus.pairs
    if part in corpus.parts(pair) and _can_translate(space, pair)
  ]
  if not chosen:
    raise TaskMoeError(
      f"the model translates no pair of mixture {corpus.name!r} that has a"
      f" {part} part: it knows {', '.join(space.languages)}. Set --part, or"
      " name other text: --tsv, --test_set."
    )
  found = {
    pair: PairText.of_rows(examples(corpus, part=part, pair=pair, limit=limit))
    for pair in chosen
  }
  return Text(part, f"{part} part of {corpus.name}", found)


def of_tsv(
  path: str,
  *,
  part: str,
  pairs: Sequence[str] | None,
  space: TaskSpace,
  limit: int | None,
) -> Text:
  """Takes a file, or the files of a folder.

  Args:
    path: A file of lines `source<TAB>reference`, of one pair; or a folder of
      files `xx-yy.{dev,test}.tsv[.gz]`, each read in both directions.
    part: Which files of a folder.
    pairs: Exactly one for a file; for a folder, all that the model can
      translate unless given.
    space: What the model can translate.
    limit: How many lines of each pair, from the first; None for all.
  """
  check_limit(limit)
  if not pathlib.Path(path).is_dir():
    if not pairs or len(pairs) != 1:
      raise TaskMoeError(
        f"which pair {path!r} is of is not clear: its lines are"
        " source<TAB>reference of one pair. Set --pairs to it, such as"
        " --pairs=de-en."
      )
    name = re.sub(r"\.tsv(\.gz)?$", "", pathlib.Path(path).name)
    return Text(name, path, {pairs[0]: _read_file(path, limit)})
  name = pathlib.Path(path).resolve().name
  text = of_corpus(
    # A separate name: the run's mixture may be registered as `tsv`.
    open_corpus(
      tsv(path, vocabulary=None, temperature=1.0, name="evaluated_tsv")
    ),
    part=part,
    pairs=pairs,
    space=space,
    limit=limit,
  )
  return Text(f"{name}-{part}", f"{part} files of {path}", text.pairs)


def of_sacrebleu(
  test_set: str,
  *,
  pairs: Sequence[str] | None,
  space: TaskSpace,
  limit: int | None,
) -> Text:
  """Takes a test set that sacrebleu has, or downloads, by its name (`wmt19`).

  Args:
    test_set: Its name.
    pairs: Which; all that the model can translate, unless given.
    space: What the model can translate.
    limit: How many lines of each pair, from the first; None for all.
  """
  check_limit(limit)
  known = test_set_pairs(test_set)
  chosen = pairs or [pair for pair in known if _can_translate(space, pair)]
  if not chosen:
    raise TaskMoeError(
      f"the model translates none of {', '.join(known)}, the pairs of test set"
      f" {test_set!r}: it knows {', '.join(space.languages)}. Set --test_set."
    )
  found = {}
  for pair in chosen:
    whole = read_test_set(test_set, pair)
    references = [lines[:limit] for lines in whole.references]
    found[pair] = PairText(whole.sources[:limit], references)
  name = test_set.replace("/", "-")
  return Text(name, f"sacrebleu's {test_set}", found)


def _can_translate(space: TaskSpace, pair: str) -> bool:
  try:
    space.task_of_pair(pair)
    return all(language in space.languages for language in split_pair(pair))
  except TaskMoeError:
    return False


def _read_file(path: str, limit: int | None) -> PairText:
  """Reads a whole file, or says which line is wrong.

  A file of training text may lose a line; a test set that has lost one is a
  different test set.
  """
  try:
    data = pathlib.Path(path).read_bytes()
    if path.endswith(".gz"):
      data = gzip.decompress(data)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise TaskMoeError(
      f"{path}: not a whole gzip file ({error}). Copy it again."
    ) from None
  except OSError as error:
    raise TaskMoeError(
      f"cannot read {path!r} ({error.strerror}). Set --tsv."
    ) from None
  rows = []
  lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
  for number, line in enumerate(lines[: len(lines) - (not lines[-1])], 1):
    try:
      columns = line.removesuffix(b"\r").decode().split("\t")
    except UnicodeDecodeError as error:
      raise TaskMoeError(
        f"{path}:{number}: not UTF-8 at byte {error.start + 1}."
      ) from None
    if len(columns) != 2:
      raise TaskMoeError(
        f"{path}:{number}: {len(columns)} columns: a line is"
        " source<TAB>reference."
      )
    rows.append((columns[0], columns[1]))
  if not rows:
    raise TaskMoeError(f"{path}: has no line. Set --tsv.")
  return PairText.of_rows(rows[:limit])

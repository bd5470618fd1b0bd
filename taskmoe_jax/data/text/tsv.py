"""Parallel text in tab-separated files: `xx-yy.{train,dev,test}.tsv[.gz]`.

  en-de.train.tsv.gz:   Acid attacks metal.<TAB>Säure greift Metall an.

The file names say the languages: the first column is `xx`, the second `yy`. The
text is used exactly as it is in the file, because scores depend on every
character; only a byte-order mark and the CR of a CRLF are removed. Each file is
scanned once, when its text is first needed, and then never again
(`text_store.py`), so that whatever is wrong with it is found before a run.
"""

import collections
import functools
import gzip
import io
import logging
import os
import pathlib
import re
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from taskmoe_jax.data.text import text_lines
from taskmoe_jax.data.text.text_store import (
  TextStore,
  Writer,
  cached_store,
  progress,
  stamp,
)
from taskmoe_jax.errors import TaskMoeError

# Parts are called as seqio calls its splits; files say `dev`.
FILE_PARTS = {"train": "train", "validation": "dev", "test": "test"}

# A language in a file name.
LANGUAGE = r"[A-Za-z]+(?:_[A-Za-z0-9]+)*"
_FILE_NAME = re.compile(
  rf"({LANGUAGE})-({LANGUAGE})\.(train|dev|test)\.tsv(?:\.gz)?"
)
_MALFORMED_LIMIT = 0.01
_LINES_REPORTED = 3
_WIDE_MARKS = (b"\xff\xfe", b"\xfe\xff")

_logger = logging.getLogger(__name__)


def open_lines(
  path: str | os.PathLike, *, columns: int, part: str
) -> TextStore:
  """Opens a file of lines, `text[i]` being its i-th well-formed line.

  A malformed line (not two columns, not UTF-8, an empty side, a NUL, more than
  1 MiB) is reported with its number and skipped, if no more than 1 % are.
  Evaluation text may have none: a score covers all lines.

  Args:
    path: Plain or `.gz`, which is unpacked into the text cache.
    columns: 2 separated by a tab, or 1; then blank lines are skipped too.
    part: `train`, or a part that is scored.
  """
  path = pathlib.Path(path)
  try:
    size, changed = stamp(path)
    with open(path, "rb") as file:
      wide = file.read(2) in _WIDE_MARKS
  except OSError as error:
    raise _unreadable(path, error) from None
  if wide:
    raise TaskMoeError(f"{path}: is UTF-16. Write it as UTF-8.")
  packed = path.suffix == ".gz"
  store = cached_store(
    path.name,
    {
      "path": str(path.resolve()),
      "size": size,
      "changed": changed,
      "columns": columns,
    },
    functools.partial(_find_lines, path, packed, columns),
    path=None if packed else path,
  )
  if stamp(path) != (size, changed):
    raise TaskMoeError(f"{path}: has changed while it was read. Start again.")
  _report(path, store.report, columns, part)
  return store


def _find_lines(
  path: pathlib.Path, packed: bool, columns: int, writer: Writer
) -> dict[str, Any]:
  report: dict[str, Any] = {
    "lines": 0,
    "blank": 0,
    "malformed": 0,
    "first_malformed": [],
  }
  blocks = _blocks(path, packed, writer)
  for lines in text_lines.scan(blocks, origin=path, columns=columns):
    writer.records.write(lines.records.tobytes())
    report["lines"] += lines.total
    report["blank"] += lines.blank
    report["malformed"] += len(lines.faults)
    room = _LINES_REPORTED - len(report["first_malformed"])
    report["first_malformed"] += lines.faults[:room]
  return report


def _blocks(
  path: pathlib.Path, packed: bool, writer: Writer
) -> Iterator[bytes]:
  """The bytes of a file; unpacked ones are also written to the text cache."""
  size = path.stat().st_size
  with (
    open(path, "rb") as raw,
    progress(f"reading {path.name}", total=size, num_bytes=size) as advance,
  ):
    file = gzip.GzipFile(fileobj=raw) if packed else raw
    at = 0
    while block := _read_block(file, path):
      if packed:
        writer.text.write(block)
      yield block
      advance(raw.tell() - at)
      at = raw.tell()


def _read_block(file: io.BufferedIOBase, path: pathlib.Path) -> bytes:
  try:
    return file.read(text_lines.BLOCK_BYTES)
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise TaskMoeError(
      f"{path}: not a whole gzip file ({error}). Copy it again."
    ) from None
  except OSError as error:
    raise _unreadable(path, error) from None


def _unreadable(path: pathlib.Path, error: OSError) -> TaskMoeError:
  return TaskMoeError(f"{path}: cannot be read ({error.strerror}).")


def _report(
  path: pathlib.Path, report: Mapping[str, Any], columns: int, part: str
) -> None:
  """Refuses a file with too many malformed lines; logs the first otherwise."""
  if not report["malformed"]:
    return
  number, fault = report["first_malformed"][0]
  count = f"{report['malformed']} of {report['lines']} lines are malformed"
  line = "one column" if columns == 1 else "two columns"
  wanted = f"A line is {line} of UTF-8" + (
    "." if columns == 1 else ", neither of them empty, with one tab between."
  )
  if part != "train":
    raise TaskMoeError(
      f"{path}: {count}; the first is line {number}: {fault}. Text that scores"
      f" are of is taken whole or not at all. {wanted}"
    )
  if report["malformed"] > _MALFORMED_LIMIT * report["lines"]:
    raise TaskMoeError(
      f"{path}: {count}, more than 1 %; the first is line {number}: {fault}."
      f" {wanted}"
    )
  for number, fault in report["first_malformed"]:
    _logger.warning("%s:%d: skipped: %s", path, number, fault)
  _logger.warning(
    "%s: skipped %d malformed of %d lines",
    path,
    report["malformed"],
    report["lines"],
  )


class TsvFolder:
  """The files of a folder, by pair of columns and part.

  Files are read when their text is asked for, once. Names that end in `.tsv`
  but do not look like a part of a pair (`counts.tsv`) are ignored; names that
  look like a mistake (`en-de.valid.tsv`) are an error.
  """

  def __init__(self, folder: str | os.PathLike):
    self.folder = pathlib.Path(folder)
    self._paths: dict[tuple[str, str], dict[str, pathlib.Path]]
    self._paths = collections.defaultdict(dict)
    if not self.folder.is_dir():
      raise TaskMoeError(
        f"no folder {str(folder)!r}. Set tsv.folder to a folder of"
        " xx-yy.{train,dev,test}.tsv[.gz] files."
      )
    for path in sorted(self.folder.iterdir()):
      self._add(path)
    if not self._paths:
      raise TaskMoeError(
        f"the folder {str(folder)!r} has no file called"
        " xx-yy.{train,dev,test}.tsv[.gz]. Set tsv.folder to one that has."
      )

  @property
  def pairs(self) -> tuple[tuple[str, str], ...]:
    """The languages of the first and second column, one entry per pair."""
    return tuple(self._paths)

  def parts(self, pair: tuple[str, str]) -> tuple[str, ...]:
    """The parts that have files, in the order of `FILE_PARTS`."""
    return tuple(p for p in FILE_PARTS if FILE_PARTS[p] in self._paths[pair])

  @functools.cache  # noqa: B019 - a folder lives as long
  def text(self, pair: tuple[str, str], part: str) -> TextStore:
    path = self._paths[pair][FILE_PARTS[part]]
    return open_lines(path, columns=2, part=part)

  def _add(self, path: pathlib.Path) -> None:
    match = _FILE_NAME.fullmatch(path.name)
    if not match:
      if re.search(r"-.*\.tsv(\.gz)?$|\.(train|dev|test)\.tsv", path.name):
        raise TaskMoeError(
          f"{path}: a file of parallel text is called"
          " xx-yy.{train,dev,test}.tsv[.gz], such as en-de.dev.tsv.gz. Rename"
          " it or take it out of the folder."
        )
      return
    first, second, part = match.groups()
    if first == second:
      raise TaskMoeError(f"{path}: both columns are {first!r}. Rename it.")
    twin = self._paths.get((first, second), {}).get(part) or (
      self._paths.get((second, first), {}).get(part)
    )
    if twin:
      raise TaskMoeError(
        f"{path}: {twin.name} is the same part of the same pair. Both"
        " directions are made from one file; take one of them away."
      )
    if (second, first) in self._paths:
      raise TaskMoeError(
        f"{path}: other files of this pair are called {second}-{first}. Give"
        " all its parts one order of columns."
      )
    self._paths[first, second][part] = path

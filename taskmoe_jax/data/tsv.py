"""Parallel text in tab-separated files: `xx-yy.{train,dev,test}.tsv[.gz]`.

  en-de.train.tsv.gz:   Acid attacks metal.<TAB>Säure greift Metall an.

The languages are read off the file names: the first column is `xx`, the second
`yy`. The text is given as it stands in the file, because scores depend on every
character; only a byte-order mark and the CR of a CRLF are taken off.
"""

import collections
import functools
import gzip
import logging
import os
import pathlib
import re
import zlib

from taskmoe_jax.errors import TaskMoeError

# Parts are called as seqio calls its splits; files say `dev`.
FILE_PARTS = {"train": "train", "validation": "dev", "test": "test"}

_LANGUAGE = r"[A-Za-z]+(?:_[A-Za-z0-9]+)*"
_FILE_NAME = re.compile(
  rf"({_LANGUAGE})-({_LANGUAGE})\.(train|dev|test)\.tsv(?:\.gz)?"
)
_MALFORMED_LIMIT = 0.01
_LINES_REPORTED = 3

_logger = logging.getLogger(__name__)


class TsvText:
  """The text of one file: `text[i]` is its i-th good line, as two columns.

  A malformed line (not two columns, not UTF-8, an empty side) is reported with
  its number and skipped. More than 1 % of them is an error, because then the
  file is something else than it claims to be.
  """

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self._lines: list[bytes] = []
    self.malformed: dict[int, str] = {}
    lines = _read(self.path).removeprefix(b"\xef\xbb\xbf").split(b"\n")
    if not lines[-1]:
      lines.pop()
    for number, line in enumerate(lines, 1):
      line = line.removesuffix(b"\r")
      if fault := _fault(line):
        self.malformed[number] = fault
      else:
        self._lines.append(line)
    self._report(len(lines))

  def __len__(self) -> int:
    return len(self._lines)

  def __getitem__(self, index: int) -> tuple[str, str]:
    first, second = self._lines[index].decode().split("\t")
    return first, second

  def _report(self, num_lines: int) -> None:
    if not self.malformed:
      return
    first = next(iter(self.malformed))
    if len(self.malformed) > _MALFORMED_LIMIT * num_lines:
      raise TaskMoeError(
        f"{self.path}: {len(self.malformed)} of {num_lines} lines are"
        f" malformed, more than 1 %; the first is line {first}:"
        f" {self.malformed[first]}. A line is two columns of UTF-8, neither of"
        " them empty, with one tab between."
      )
    for number in list(self.malformed)[:_LINES_REPORTED]:
      _logger.warning(
        "%s:%d: skipped: %s", self.path, number, self.malformed[number]
      )
    _logger.warning(
      "%s: skipped %d malformed of %d lines",
      self.path,
      len(self.malformed),
      num_lines,
    )


class TsvFolder:
  """The files of a folder, by pair of columns and part.

  Files are read when their text is asked for, once. Names that end in `.tsv`
  but look like no part of a pair (`counts.tsv`) are left alone; names that
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
    """The parts there are files for, in the order of `FILE_PARTS`."""
    return tuple(p for p in FILE_PARTS if FILE_PARTS[p] in self._paths[pair])

  @functools.cache  # noqa: B019 - a folder lives as long
  def text(self, pair: tuple[str, str], part: str) -> TsvText:
    return TsvText(self._paths[pair][FILE_PARTS[part]])

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


def _read(path: pathlib.Path) -> bytes:
  try:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data
  except (EOFError, zlib.error, gzip.BadGzipFile) as error:
    raise TaskMoeError(
      f"{path}: not a whole gzip file ({error}). Copy it again."
    ) from None
  except OSError as error:
    raise TaskMoeError(f"{path}: cannot be read ({error.strerror}).") from None


def _fault(line: bytes) -> str | None:
  try:
    columns = line.decode().split("\t")
  except UnicodeDecodeError as error:
    return f"not UTF-8 at byte {error.start + 1}"
  if len(columns) != 2:
    return f"{len(columns)} columns"
  if not columns[0].strip():
    return "the first column is empty"
  if not columns[1].strip():
    return "the second column is empty"
  return None

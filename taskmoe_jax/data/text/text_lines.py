"""Finds the well-formed lines of a file, a block at a time.

Nearly all lines are well-formed, which a few array operations show: one tab, no
byte that could begin a blank side, valid UTF-8. Only the doubtful lines are
checked one by one.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from taskmoe_jax.data.text.text_store import RECORD
from taskmoe_jax.errors import TaskMoeError

BLOCK_BYTES = 1 << 22
# No sentence is longer, and no row could hold it.
_LONGEST_LINE = 1 << 20
# A file without a newline in this many bytes is not a file of lines.
_LONGEST_UNBROKEN = 1 << 26

_MARK = b"\xef\xbb\xbf"
_TAB, _NEWLINE, _RETURN = b"\t\n\r"
_BLANK_LINE = "blank"
# First bytes of what str.strip removes: ASCII, U+0085 and U+00A0, and the
# spaces of U+1680, U+2000 and U+3000.
_MAY_BE_BLANK = np.zeros(256, bool)
_MAY_BE_BLANK[[*range(9, 14), *range(28, 33), 0xC2, 0xE1, 0xE2, 0xE3]] = True


class Lines(NamedTuple):
  """What a block holds.

  Attributes:
    records: Records of the well-formed lines.
    faults: Number and fault of each malformed line; lines count from 1.
    blank: Number of blank lines, which text in one language may have.
    total: Number of lines of all kinds.
  """

  records: np.ndarray
  faults: list[tuple[int, str]]
  blank: int
  total: int


def scan(
  blocks: Iterable[bytes], *, origin: object, columns: int
) -> Iterator[Lines]:
  """Yields the lines of blocks of a file.

  Args:
    blocks: The file's bytes, cut anywhere.
    origin: The file, for errors.
    columns: 2, or 1 for text in one language, where a tab is a character.
  """
  rest, position, number = b"", 0, 1
  for block in blocks:
    data = rest + block
    end = data.rfind(b"\n") + 1
    rest = data[end:]
    if len(rest) > _LONGEST_UNBROKEN:
      line = number + data.count(b"\n")
      raise TaskMoeError(
        f"{origin}:{line}: a line of more than"
        f" {_LONGEST_UNBROKEN} bytes: this is not a file of lines."
      )
    if end:
      lines = _scan(data[:end], position, number, columns)
      yield lines
      position += end
      number += lines.total
  if rest and rest != _MARK:
    yield _scan(rest + b"\n", position, number, columns)


def _scan(data: bytes, position: int, number: int, columns: int) -> Lines:
  """Scans complete lines, which begin at a position of the file."""
  array = np.frombuffer(data, np.uint8)
  ends = np.flatnonzero(array == _NEWLINE)
  begins = np.concatenate([[0], ends[:-1] + 1])
  if not position and data.startswith(_MARK):
    begins[0] = len(_MARK)
  ends = ends - ((array[ends - 1] == _RETURN) & (ends > begins))
  middles, doubtful = _middles(array, begins, ends, columns)
  doubtful |= ends - begins > _LONGEST_LINE
  if b"\0" in data or not _is_utf8(data):
    doubtful[:] = True

  good = np.ones(len(ends), bool)
  faults, blank = [], 0
  for line in np.flatnonzero(doubtful).tolist():
    if fault := _fault(data[begins[line] : ends[line]], columns):
      good[line] = False
      if fault == _BLANK_LINE:
        blank += 1
      else:
        faults.append((number + line, fault))
  records = np.empty(good.sum(), RECORD)
  # A record's second text follows its first and a tab; with one column there
  # is no first, and the byte before the line is never read.
  records["begin"] = position + (begins if columns == 2 else begins - 1)[good]
  records["first"] = (middles - begins)[good] if columns == 2 else 0
  records["second"] = (ends - middles - 1)[good]
  return Lines(records, faults, blank, len(ends))


def _middles(
  array: np.ndarray, begins: np.ndarray, ends: np.ndarray, columns: int
) -> tuple[np.ndarray, np.ndarray]:
  """Where each line's second text begins, less one, and what is doubtful."""
  if columns == 1:
    return begins - 1, (ends == begins) | _MAY_BE_BLANK[array[begins]]
  tabs = np.flatnonzero(array == _TAB)
  before = np.searchsorted(tabs, begins)
  doubtful = np.searchsorted(tabs, ends) - before != 1
  middles = np.append(tabs, 0)[before]
  middles = np.where(doubtful, begins, middles)
  doubtful |= (middles == begins) | (middles + 1 == ends)
  doubtful |= _MAY_BE_BLANK[array[begins]]
  doubtful |= _MAY_BE_BLANK[array[np.minimum(middles + 1, len(array) - 1)]]
  return middles, doubtful


def _is_utf8(data: bytes) -> bool:
  try:
    data.decode()
  except UnicodeDecodeError:
    return False
  return True


def _fault(line: bytes, columns: int) -> str | None:
  if len(line) > _LONGEST_LINE:
    return f"{len(line)} bytes, more than {_LONGEST_LINE}"
  if b"\0" in line:
    return f"a NUL at byte {line.index(0) + 1}"
  try:
    text = line.decode()
  except UnicodeDecodeError as error:
    return f"not UTF-8 at byte {error.start + 1}"
  if columns == 1:
    return None if text.strip() else _BLANK_LINE
  sides = text.split("\t")
  if len(sides) != 2:
    return f"{len(sides)} columns"
  if not sides[0].strip():
    return "the first column is empty"
  if not sides[1].strip():
    return "the second column is empty"
  return None

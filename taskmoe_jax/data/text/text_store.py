"""Text of any size by index, from a file and a table of where its lines are.

The text stays in its file on disk; the *text cache* has a memory-mapped table
with one record per line. So memory does not grow with the corpus, and opening
it again costs nothing. The cache is in `$TASKMOE_CACHE/text`,
`~/.cache/taskmoe_jax/text` by default; it is remade when it is missing, so all
of it may be deleted while no run reads it.

  record:   begin 100, first 3, second 4
  file:     ...one\teins\\n...
               ^ byte 100
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.progress

from taskmoe_jax.errors import TaskMoeError

RECORD = np.dtype([("begin", "<i8"), ("first", "<i4"), ("second", "<i4")])
# Version of the files below, and of the rules for well-formed lines.
VERSION = 1
# Smaller files take under a second and show no progress.
_SHOWN_FROM_BYTES = 1 << 27

_RECORDS, _TEXT, _REPORT = "records", "text", "report.json"


class TextStore:
  """Sentences in two languages: `store[i]` is `(first, second)`.

  Text in one language has `""` for the first. Any number of threads and
  processes may read. A file that changes while it is read is an error, never a
  wrong sentence.

  Attributes:
    key: Identifies the text and all processing of it.
    report: Counts from making it, such as skipped lines. JSON.
  """

  def __init__(
    self,
    path: pathlib.Path,
    records: np.ndarray,
    *,
    key: Mapping[str, Any],
    report: Mapping[str, Any],
  ):
    """Reads `path`, whose `stamp` must be unchanged since records were made."""
    self.path = path
    self.records = records
    self.key = key
    self.report = report
    self._stamp = stamp(path)

  def __len__(self) -> int:
    return len(self.records)

  def __getitem__(self, index: int) -> tuple[str, str]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    return self.read((index,))[0]

  def read(self, indices: Sequence[int]) -> list[tuple[str, str]]:
    """Reads many sentences at once, in the order of the indices."""
    try:
      return [(a.decode(), b.decode()) for a, b in self.read_bytes(indices)]
    except UnicodeDecodeError:
      raise self._changed() from None

  def read_bytes(self, indices: Sequence[int]) -> list[tuple[bytes, bytes]]:
    """Reads many sentences as UTF-8."""
    records = self.records[np.asarray(indices, np.int64)]
    found = []
    # By `pread`, not memory-mapped: there a file that was truncated kills the
    # process with a signal, and each page read counts as memory.
    with self._opened() as file:
      for begin, first, second in records.tolist():
        skipped = not first  # then there is no tab before the second
        size = first + 1 + second - skipped
        data = os.pread(file, size, begin + skipped)
        if len(data) != size:
          raise self._changed()
        found.append((data[:first], data[first + 1 - skipped :]))
    return found

  def chosen(
    self, records: np.ndarray, *, key: Mapping[str, Any], report: Mapping
  ) -> "TextStore":
    """Returns some of the sentences, as another text."""
    return TextStore(self.path, records, key=key, report=report)

  @contextlib.contextmanager
  def _opened(self) -> Iterator[int]:
    # Opened each time: hundreds of pairs would exhaust a process's open files.
    try:
      file = os.open(self.path, os.O_RDONLY)
    except OSError as error:
      raise TaskMoeError(
        f"{self.path}: cannot be read any more ({error.strerror}). Start again"
        " when it is back."
      ) from None
    try:
      if _stamp(os.fstat(file)) != self._stamp:
        raise self._changed()
      yield file
    finally:
      os.close(file)

  def _changed(self) -> TaskMoeError:
    return TaskMoeError(
      f"{self.path}: has changed since it was opened. Let files stand while a"
      " run reads them, and start again."
    )


def stamp(path: pathlib.Path) -> tuple[int, int]:
  """Size and time, which distinguish a file from an older one of its name."""
  return _stamp(os.stat(path))


def _stamp(status: os.stat_result) -> tuple[int, int]:
  return status.st_size, status.st_mtime_ns


def cache_folder() -> pathlib.Path:
  """Where the text cache is."""
  root = os.environ.get("TASKMOE_CACHE")
  if not root:
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.path.join(home, "taskmoe_jax")
  return pathlib.Path(root) / "text"


@dataclasses.dataclass
class Writer:
  """Writes the records of a store, and its text if no file has it yet."""

  folder: pathlib.Path

  @functools.cached_property
  def records(self):
    return open(self.folder / _RECORDS, "wb")

  @functools.cached_property
  def text(self):
    return open(self.folder / _TEXT, "wb")

  def close(self) -> None:
    for name in ("records", "text"):
      if name in vars(self):
        vars(self)[name].close()


def cached_store(
  name: str,
  key: Mapping[str, Any],
  make: Callable[[Writer], Mapping[str, Any]],
  *,
  path: pathlib.Path | None = None,
) -> TextStore:
  """Returns a store from the text cache, made first if it is missing.

  It is made under a temporary name and then renamed: a killed process leaves no
  partial one, and of several processes that make the same, one wins.

  Args:
    name: For people who look into the cache folder.
    key: JSON of all that the store depends on.
    make: Fills the writer and returns the report.
    path: The file with the text, unless `make` writes it.
  """
  key = {"version": VERSION, **key}
  digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
  folder = cache_folder() / f"{name}-{digest[:20]}"
  try:
    if not (folder / _REPORT).exists():
      _make(folder, key, make, with_text=path is None)
    report = json.loads((folder / _REPORT).read_text())
    records = _map(folder / _RECORDS, report["records"])
  except (OSError, json.JSONDecodeError) as error:
    raise TaskMoeError(
      f"the text cache {str(folder)!r} cannot be written or read ({error}). Set"
      " the environment variable TASKMOE_CACHE to a folder with room."
    ) from None
  return TextStore(
    path or folder / _TEXT, records, key=key, report=report["report"]
  )


def _make(
  folder: pathlib.Path,
  key: Mapping[str, Any],
  make: Callable[[Writer], Mapping[str, Any]],
  *,
  with_text: bool,
) -> None:
  folder.parent.mkdir(parents=True, exist_ok=True)
  _remove_abandoned(folder)
  begun = folder.with_name(
    f"{folder.name}.{socket.gethostname()}.{os.getpid()}.begun"
  )
  begun.mkdir(exist_ok=True)
  writer = Writer(begun)
  try:
    writer.records.flush()  # the files are there, if nothing is in them
    if with_text:
      writer.text.flush()
    report = make(writer)
    writer.close()
    records = (begun / _RECORDS).stat().st_size // RECORD.itemsize
    saved = {"key": key, "records": records, "report": report}
    (begun / _REPORT).write_text(json.dumps(saved, ensure_ascii=False))
    try:
      begun.rename(folder)
    except OSError:
      if not (folder / _REPORT).exists():
        raise
  finally:
    writer.close()
    shutil.rmtree(begun, ignore_errors=True)


def _remove_abandoned(folder: pathlib.Path) -> None:
  """Removes what killed processes of this machine left unfinished."""
  host = socket.gethostname()
  for begun in folder.parent.glob(f"{folder.name}.{host}.*.begun"):
    process = begun.name.split(".")[-2]
    if not os.path.exists(f"/proc/{process}") and os.path.isdir("/proc"):
      shutil.rmtree(begun, ignore_errors=True)


def _map(path: pathlib.Path, size: int) -> np.ndarray:
  if path.stat().st_size != size * RECORD.itemsize:
    raise OSError(f"{path} is incomplete; delete its folder")
  if not size:
    return np.zeros(0, RECORD)  # an empty file cannot be mapped
  return np.memmap(path, RECORD, mode="r")


@contextlib.contextmanager
def progress(
  description: str, *, total: int, num_bytes: int
) -> Iterator[Callable[[int], None]]:
  """Shows the progress of long work, and the time left, on stderr.

  Args:
    description: What is being done.
    total: The sum of what the yielded function will be called with.
    num_bytes: Size of the text. Work on small text shows nothing.
  """
  with rich.progress.Progress(
    rich.progress.TextColumn("{task.description}"),
    rich.progress.BarColumn(),
    rich.progress.TaskProgressColumn(),
    rich.progress.TimeRemainingColumn(),
    console=rich.console.Console(stderr=True),
    transient=True,
    disable=num_bytes < _SHOWN_FROM_BYTES,
  ) as bar:
    task = bar.add_task(description, total=total)
    yield lambda amount: bar.advance(task, amount)

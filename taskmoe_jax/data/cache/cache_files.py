"""The files of a cache, and whether they are whole.

  CACHE/
    manifest.json                  written last: what the cache holds
    vocabulary.model               what it was tokenised with
    settings.json                  what all processes that write it agree on
    verified.json                  which files were verified, and when
    en-de/train-00000.ids.npy      token ids, one after another
    en-de/train-00000.offsets.npy  where each side begins
    en-de/train-00000.json         says that the shard is whole
    en-de/test-00000.ids.npy       raw text: the same, of bytes of UTF-8

A text has two columns, which both directions of a pair share. Both sides of an
example are adjacent, so that one page of the disk mostly holds both:

  ids      7 8 9 | 4 4 || 5 | 6 ||        offsets   0 3 5 6 7
           first  second  f.  s.

The arrays are NumPy's own files, mapped into memory when they are read.
"""

import contextlib
import dataclasses
import json
import pathlib
import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import rich.console
import rich.progress
from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole

FORMAT = 1
MANIFEST = "manifest.json"
SETTINGS = "settings.json"
VOCABULARY = "vocabulary.model"
_VERIFIED = "verified.json"
_CHUNK_BYTES = 1 << 24
# Less takes under two seconds and needs no progress bar.
_SHOWN_FROM_BYTES = 1 << 30


@dataclasses.dataclass(frozen=True)
class Shard:
  """Consecutive examples of a text's part, which have their own files.

  Attributes:
    name: Path in the cache, without the suffix of the files.
    begin: Index of its first example.
    end: Index behind its last one.
  """

  name: str
  begin: int
  end: int

  @property
  def record_name(self) -> str:
    return f"{self.name}.json"

  @property
  def ids_name(self) -> str:
    return f"{self.name}.ids.npy"

  @property
  def offsets_name(self) -> str:
    return f"{self.name}.offsets.npy"


def shards_of(text: str, part: str, size: int, per_shard: int) -> list[Shard]:
  """The shards of a text's part."""
  return [
    Shard(f"{text}/{part}-{number:05}", begin, min(begin + per_shard, size))
    for number, begin in enumerate(range(0, size, per_shard))
  ]


def write_shard(
  folder: pathlib.Path, shard: Shard, ids: np.ndarray, sizes: np.ndarray
) -> None:
  """Writes a shard's files, and last the record that says they are whole.

  Args:
    folder: The cache's folder.
    shard: The shard to write.
    ids: Token ids (or bytes) of all sides.
    sizes: Size of each side, alternating: first, second, first, ...
  """
  offsets = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
  files = {}
  for name, array in (
    (shard.ids_name, ids),
    (shard.offsets_name, offsets),
  ):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.tmp")
    with open(temporary, "wb") as file:
      np.save(file, array, allow_pickle=False)
    files[name] = {
      "bytes": temporary.stat().st_size,
      "crc32": crc32(temporary),
    }
    temporary.replace(path)
  record = {"begin": shard.begin, "end": shard.end, "files": files}
  write_json(folder / shard.record_name, record)


def read_record(folder: pathlib.Path, shard: Shard) -> dict[str, Any] | None:
  """The record of a shard that is complete, judging by file sizes."""
  try:
    record = json.loads((folder / shard.record_name).read_text())
    sizes = {n: (folder / n).stat().st_size for n in record["files"]}
  except (OSError, ValueError):
    return None
  if any(sizes[n] != file["bytes"] for n, file in record["files"].items()):
    return None
  return record


def files_of(manifest: Mapping[str, Any]) -> dict[str, dict[str, int]]:
  """Bytes and checksum of every file that a manifest lists."""
  files = {VOCABULARY: manifest["vocabulary_file"]}
  for parts in manifest["texts"].values():
    for part in parts.values():
      for record in part["shards"]:
        files |= record["files"]
  return files


def check_files(
  folder: pathlib.Path,
  files: Mapping[str, Mapping[str, int]],
  *,
  every_byte: bool,
) -> None:
  """Refuses files that are missing or differ in size or bytes.

  Sizes are always checked. A file's bytes are read when this machine has not
  verified it yet, or its modification time has changed since (`verified.json`).
  So a changed byte is found when a run begins, and from then on a cache of any
  size opens at once.

  Args:
    folder: The cache's folder.
    files: Bytes and checksum of each file.
    every_byte: Whether to read through all files, whatever was verified.

  Raises:
    TaskMoeError: With the name of the first file that is not as it was.
  """
  verified = {} if every_byte else _read_verified(folder)
  stamps, doubtful = {}, []
  for name, file in files.items():
    try:
      status = (folder / name).stat()
    except OSError as error:
      raise damaged(folder, name, error.strerror or str(error)) from None
    if status.st_size != file["bytes"]:
      found = f"{status.st_size} bytes and not {file['bytes']}"
      raise damaged(folder, name, found)
    stamps[name] = [status.st_size, status.st_mtime_ns]
    if verified.get(name) != stamps[name]:
      doubtful.append(name)
  for name in _with_progress(
    doubtful, sum(files[name]["bytes"] for name in doubtful)
  ):
    if crc32(folder / name) != files[name]["crc32"]:
      raise damaged(folder, name, "its checksum is another")
  if doubtful:
    # A read-only folder is verified each time.
    with contextlib.suppress(OSError):
      write_json(folder / _VERIFIED, stamps)


def damaged(folder: pathlib.Path, name: str, found: str) -> TaskMoeError:
  return TaskMoeError(
    f"{folder / name}: this file of the cache is damaged ({found}). Run"
    " `taskmoe cache` again, which writes damaged parts anew, or copy it again."
  )


def crc32(path: pathlib.Path) -> int:
  checksum = 0
  with open(path, "rb") as file:
    while chunk := file.read(_CHUNK_BYTES):
      checksum = zlib.crc32(chunk, checksum)
  return checksum


def write_json(path: pathlib.Path, value: Any) -> None:
  """Writes JSON, its keys in their order: that of pairs is the mixture's."""
  write_whole(epath.Path(path), json.dumps(value, indent=1).encode())


def _read_verified(folder: pathlib.Path) -> dict[str, list[int]]:
  try:
    return json.loads((folder / _VERIFIED).read_text())
  except (OSError, ValueError):
    return {}


def _with_progress(names: Iterable[str], num_bytes: int) -> Iterable[str]:
  return rich.progress.track(
    names,
    "verifying the cache",
    console=rich.console.Console(stderr=True),
    disable=num_bytes < _SHOWN_FROM_BYTES,
    transient=True,
  )

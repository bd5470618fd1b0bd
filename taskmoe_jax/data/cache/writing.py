"""Writes a mixture's tokens to a cache, with any number of processes.

The work is divided into shards. A process takes one that no other holds (by a
lock that the system releases when its holder is killed), writes it, and takes
the next. Complete shards are kept, so that the same command resumes after a
kill; the process that finishes the last one writes the manifest, without which
there is no cache. `ShardProgress` shows how far all of them are.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import rich.console
import rich.progress
from etils import epath

from taskmoe_jax.data.batches.packing import tokenise
from taskmoe_jax.data.cache import cache_files
from taskmoe_jax.data.cache.cache_files import Shard
from taskmoe_jax.data.cache.content import Content, content_of, settings_of
from taskmoe_jax.data.corpus import Mixture, Text, read
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.text.vocabulary_training import VocabularySource
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.vocabulary import Vocabulary

# A shard is some tens of megabytes, which is also a process's memory.
EXAMPLES_PER_SHARD = 1 << 18
_EXAMPLES_AT_ONCE = 2048


def write_cache(
  *,
  mixture: Mixture,
  vocabulary: VocabularySource,
  folder: str,
  endless_examples: int | None,
  console: rich.console.Console | None = None,
  examples_per_shard: int = EXAMPLES_PER_SHARD,
) -> bool:
  """Writes a cache, alone or together with other processes.

  The train parts are kept as token ids, without `<2xx>` and end of sentence,
  once for both directions of a pair; validation and test parts as raw text,
  byte for byte.

  Args:
    mixture: What to read; its rates are stored.
    vocabulary: The vocabulary to tokenise with. Without a path one is made in
      the cache.
    folder: The cache's folder.
    endless_examples: How many examples to take of an endless train part.
    console: Where progress is shown.
    examples_per_shard: Number of examples in a shard.

  Returns:
    Whether the cache is finished; otherwise other processes still write it.

  Raises:
    TaskMoeError: The folder holds a cache of other settings or text.
  """
  console = console or rich.console.Console()
  corpus = open_corpus(mixture)
  if corpus.vocabulary is not None:
    raise TaskMoeError(
      f"mixture {corpus.name!r} is a cache already ({corpus.origin}). Set"
      " MIXTURE to what it was made of."
    )
  root = pathlib.Path(folder)
  try:
    root.mkdir(parents=True, exist_ok=True)
    with _held(root / "vocabulary.lock", wait=True):
      path = root / cache_files.VOCABULARY
      tokens = vocabulary.load_or_train(corpus, epath.Path(path))
      if not path.exists():
        write_whole(epath.Path(path), tokens.model)
    content = content_of(corpus, endless_examples)
    settings = settings_of(corpus.name, content, tokens, examples_per_shard)
    _agree(root, settings)
    work = _work(content, examples_per_shard)
    with ShardProgress(list(work), console) as progress:
      _write_shards(root, work, tokens, progress)
    return _finish(root, settings, content, console)
  except OSError as error:
    raise TaskMoeError(
      f"cannot write the cache {str(root)!r} ({error.strerror or error}). Set"
      " CACHE to a folder with room, or fix it and run `taskmoe cache` again,"
      " which resumes where it stopped."
    ) from None


def _work(
  content: Content, examples_per_shard: int
) -> dict[Shard, tuple[str, Text]]:
  """The part and the text of every shard."""
  return {
    shard: (part, found.columns)
    for text, parts in content.texts.items()
    for part, found in parts.items()
    for shard in cache_files.shards_of(
      text, part, found.size, examples_per_shard
    )
  }


def _agree(root: pathlib.Path, settings: Mapping[str, Any]) -> None:
  """Refuses to resume a cache that was begun with other settings."""
  path = root / cache_files.SETTINGS
  with _held(root / "settings.lock", wait=True):
    if not path.exists():
      cache_files.write_json(path, settings)
    found = json.loads(path.read_text())
  for name in sorted(found.keys() | settings.keys()):
    if found.get(name) != settings.get(name):
      raise TaskMoeError(
        f"the cache {str(root)!r} was begun with another {name}:"
        f" {found.get(name)}, and now it is {settings.get(name)}. Set CACHE to"
        " another folder, or remove this one."
      )


class ShardProgress:
  """Counts examples that are in the cache; a context manager.

  The time left is estimated from what this process wrote itself, since existing
  shards cost nothing.
  """

  def __init__(
    self,
    shards: Sequence[Shard],
    console: rich.console.Console,
    *,
    clock: Callable[[], float] = time.monotonic,
  ):
    self._total = sum(shard.end - shard.begin for shard in shards)
    self._console = console
    self._clock = clock
    self._begin = clock()
    self._written = self._kept = 0
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("caching"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("examples  {task.description}"),
      console=console,
      disable=not console.is_terminal,
    )
    self._task = self._bar.add_task("", total=self._total)

  def __enter__(self) -> "ShardProgress":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()

  def advance(self, examples: int) -> None:
    """Counts examples that this process has read."""
    self._written += examples
    self._update()

  def kept(self, shard: Shard) -> None:
    """Counts a shard that existed already."""
    self._kept += shard.end - shard.begin
    self._update()

  def wrote(self, shard: Shard) -> None:
    """Reports a shard that is finished."""
    if not self._console.is_terminal:
      done = self._written + self._kept
      self._console.print(
        f"{shard.name}  {done}/{self._total} examples  {self._speed()}",
        highlight=False,
        soft_wrap=True,
      )

  def _update(self) -> None:
    self._bar.update(
      self._task,
      completed=self._written + self._kept,
      description=self._speed(),
    )

  def _speed(self) -> str:
    seconds = self._clock() - self._begin
    if not self._written or seconds <= 0:
      return "ETA ?"
    speed = self._written / seconds
    left = (self._total - self._written - self._kept) / speed
    minutes, seconds = divmod(round(left), 60)
    return f"{speed:.0f} a second  ETA {minutes}:{seconds:02}"


def _write_shards(
  root: pathlib.Path,
  work: Mapping[Shard, tuple[str, Text]],
  tokens: Vocabulary,
  progress: ShardProgress,
) -> None:
  """Writes shards that no other process holds, until all left are held."""
  left = dict(work)
  while left:
    before = len(left)
    for shard, (part, columns) in list(left.items()):
      path = root / f"{shard.name}.lock"
      path.parent.mkdir(parents=True, exist_ok=True)
      with _held(path, wait=False) as held:
        if not held:
          continue
        if _is_complete(root, shard):
          progress.kept(shard)
        else:
          _write(root, shard, part, columns, tokens, progress)
      del left[shard]
    if len(left) == before:
      return


def _is_complete(root: pathlib.Path, shard: Shard) -> bool:
  """Whether a shard exists with the bytes that were written."""
  record = cache_files.read_record(root, shard)
  if record is None:
    return False
  return all(
    cache_files.crc32(root / name) == file["crc32"]
    for name, file in record["files"].items()
  )


def _write(
  root: pathlib.Path,
  shard: Shard,
  part: str,
  columns: Text,
  tokens: Vocabulary,
  progress: ShardProgress,
) -> None:
  ids, sizes = [], []
  for begin in range(shard.begin, shard.end, _EXAMPLES_AT_ONCE):
    indices = range(begin, min(begin + _EXAMPLES_AT_ONCE, shard.end))
    pairs = read(columns, list(indices))
    lines = [side for pair in pairs for side in pair]
    if part == "train":
      found = tokenise(tokens, lines)
      dtype = np.uint16 if len(tokens) <= 1 << 16 else np.int32
      ids.append(found.ids.astype(dtype))
      sizes.append(found.sizes)
    else:
      raw = [line.encode() for line in lines]
      ids.append(np.frombuffer(b"".join(raw), np.uint8))
      sizes.append(np.array([len(line) for line in raw], np.int64))
    progress.advance(len(indices))
  cache_files.write_shard(
    root, shard, np.concatenate(ids), np.concatenate(sizes)
  )
  progress.wrote(shard)


def _finish(
  root: pathlib.Path,
  settings: Mapping[str, Any],
  content: Content,
  console: rich.console.Console,
) -> bool:
  """Writes the manifest if all shards are complete; reports the state."""
  per_shard = settings["examples_per_shard"]
  texts: dict[str, dict[str, Any]] = {}
  missing = 0
  for text, parts in content.texts.items():
    texts[text] = {}
    for part, found in parts.items():
      shards = cache_files.shards_of(text, part, found.size, per_shard)
      records = [cache_files.read_record(root, shard) for shard in shards]
      missing += records.count(None)
      texts[text][part] = {
        "size": found.size,
        "report": found.report,
        "shards": records,
      }
  if missing:
    console.print(
      f"{missing} shards are with other processes; the last to finish completes"
      f" the cache {root}. If none runs, run `taskmoe cache` again.",
      highlight=False,
      soft_wrap=True,
    )
    return False
  vocabulary = root / cache_files.VOCABULARY
  manifest = {
    "format": cache_files.FORMAT,
    "mixture": settings["mixture"],
    "vocabulary": settings["vocabulary"],
    "vocabulary_file": {
      "bytes": vocabulary.stat().st_size,
      "crc32": cache_files.crc32(vocabulary),
    },
    "examples_per_shard": per_shard,
    "pairs": content.pairs,
    "texts": texts,
    "written_with": {
      name: importlib.metadata.version(name)
      for name in ("taskmoe-jax", "numpy", "sentencepiece")
    },
  }
  cache_files.write_json(root / cache_files.MANIFEST, manifest)
  files = cache_files.files_of(manifest)
  cache_files.check_files(root, files, every_byte=False)
  num_bytes = sum(file["bytes"] for file in files.values())
  console.print(
    f"cache in {root}: {len(content.pairs)} pairs, {len(files)} files,"
    f" {num_bytes / 1e6:.1f} MB",
    highlight=False,
    soft_wrap=True,
  )
  return True


@contextlib.contextmanager
def _held(path: pathlib.Path, *, wait: bool) -> Iterator[bool]:
  """Holds a lock that the system releases when this process is killed."""
  with open(path, "w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
      yield False
      return
    yield True

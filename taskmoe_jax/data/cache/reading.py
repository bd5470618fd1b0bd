"""Reads what `taskmoe cache` wrote, without seqio and without TensorFlow.

`open_cache` checks a cache and gives its corpus; `CachedColumns` are the token
ids below it. All arrays are memory-mapped: a cache of any size opens at once,
and takes the memory of the pages that are read.
"""

import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from taskmoe_jax.data.batches.packing import Ragged
from taskmoe_jax.data.cache import cache_files
from taskmoe_jax.data.cache.cache_files import Shard
from taskmoe_jax.data.corpus import Corpus, Text, TrainExamples
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.vocabulary import Vocabulary


def open_cache(
  folder: str | os.PathLike, *, temperature: float | None
) -> "CachedCorpus":
  """Opens a cache, after checking that all its files are complete.

  Args:
    folder: The folder that `taskmoe cache` wrote.
    temperature: T of the rates `n^(1/T)`; None keeps the rates of the mixture
      that the cache was made from.

  Raises:
    TaskMoeError: It is missing, unfinished, damaged, or of another version.
  """
  if temperature is not None and not temperature > 0:
    raise TaskMoeError(
      f"temperature {temperature} is not above 0: 1 keeps the proportions of"
      " the corpus, a higher one evens them out. Set open_cache.temperature."
    )
  folder = pathlib.Path(folder)
  manifest = read_manifest(folder)
  cache_files.check_files(
    folder, cache_files.files_of(manifest), every_byte=False
  )
  return CachedCorpus(folder, manifest, temperature)


def verify_cache(folder: str | os.PathLike) -> int:
  """Verifies every file of a cache; returns their number of bytes."""
  folder = pathlib.Path(folder)
  files = cache_files.files_of(read_manifest(folder))
  cache_files.check_files(folder, files, every_byte=True)
  return sum(file["bytes"] for file in files.values())


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
  """Returns the manifest of a finished cache."""
  path = folder / cache_files.MANIFEST
  try:
    manifest = json.loads(path.read_text())
    found = manifest["format"]
  except OSError:
    if (folder / cache_files.SETTINGS).exists():
      raise TaskMoeError(
        f"the cache {str(folder)!r} is unfinished: it has no"
        f" {cache_files.MANIFEST}. Run `taskmoe cache` again, which resumes"
        " where it stopped."
      ) from None
    raise TaskMoeError(
      f"no cache at {str(folder)!r}. Make one with `taskmoe cache"
      " --gin_file=...`, or set CACHE to one that exists."
    ) from None
  except (ValueError, LookupError, TypeError) as error:
    reason = f"no manifest: {type(error).__name__} {error}"
    raise cache_files.damaged(folder, cache_files.MANIFEST, reason) from None
  if found != cache_files.FORMAT:
    raise TaskMoeError(
      f"the cache {str(folder)!r} is of format {found}, and this version reads"
      f" {cache_files.FORMAT}. Make it again with `taskmoe cache`."
    )
  return manifest


@dataclasses.dataclass(frozen=True)
class CachedColumns:
  """Sources and targets by index: token ids, or bytes of UTF-8.

  Attributes:
    folder: The cache's folder.
    shards: All shards, in order.
    per_shard: Number of examples in each shard but the last.
    swapped: Whether the first column is the target.
  """

  folder: pathlib.Path
  shards: list[Shard]
  per_shard: int
  swapped: bool

  def __len__(self) -> int:
    return self.shards[-1].end if self.shards else 0

  def sizes(
    self, indices: Int[np.ndarray, "examples"]
  ) -> Int[np.ndarray, "examples 2"]:
    return np.diff(self._offsets_of(indices))[:, self._order]

  def read(self, indices: Int[np.ndarray, "examples"]) -> tuple[Ragged, Ragged]:
    offsets = self._offsets_of(indices)
    shards = indices // self.per_shard
    first, second = (
      self._gather(shards, *offsets[:, side : side + 2].T)
      for side in self._order
    )
    return first, second

  @property
  def _order(self) -> list[int]:
    return [1, 0] if self.swapped else [0, 1]

  def _offsets_of(
    self, indices: Int[np.ndarray, "examples"]
  ) -> Int[np.ndarray, "examples 3"]:
    """Offsets where the sides of each example begin and the second ends."""
    shards, examples = np.divmod(indices, self.per_shard)
    places = 2 * examples[:, None] + np.arange(3)
    return self._from_shards(self._offsets, shards, places)

  def _gather(
    self,
    shards: Int[np.ndarray, "examples"],
    begins: Int[np.ndarray, "examples"],
    ends: Int[np.ndarray, "examples"],
  ) -> Ragged:
    sizes = ends - begins
    before = np.cumsum(sizes) - sizes
    places = np.arange(sizes.sum()) + np.repeat(begins - before, sizes)
    owners = shards if len(self.shards) == 1 else np.repeat(shards, sizes)
    return Ragged(self._from_shards(self._ids, owners, places), sizes)

  def _from_shards(
    self,
    arrays: Sequence[np.ndarray],
    shards: Int[np.ndarray, "n"],
    places: Int[np.ndarray, "..."],
  ) -> np.ndarray:
    """Reads positions of shards, one shard after another."""
    if len(self.shards) == 1:
      return arrays[0][places]
    found = np.empty(places.shape, arrays[0].dtype)
    for shard in np.unique(shards):
      here = shards == shard
      found[here] = arrays[shard][places[here]]
    return found

  @functools.cached_property
  def _ids(self) -> list[np.ndarray]:
    return [_map(self.folder / shard.ids_name) for shard in self.shards]

  @functools.cached_property
  def _offsets(self) -> list[np.ndarray]:
    return [_map(self.folder / shard.offsets_name) for shard in self.shards]


def _map(path: pathlib.Path) -> np.ndarray:
  try:
    # A plain array: a memmap's bookkeeping costs more than a small gather.
    return np.load(path, mmap_mode="r", allow_pickle=False).view(np.ndarray)
  except (OSError, ValueError) as error:
    raise cache_files.damaged(path.parent, path.name, str(error)) from None


class CachedCorpus(Corpus):
  """The pairs of a cache; no file is opened before it is needed."""

  vocabulary: Vocabulary

  def __init__(
    self,
    folder: pathlib.Path,
    manifest: Mapping[str, Any],
    temperature: float | None,
  ):
    self.name = manifest["mixture"]
    self.origin = f"from the cache {folder}"
    self.pairs = tuple(manifest["pairs"])
    self.vocabulary = Vocabulary.load(folder / cache_files.VOCABULARY)
    self._folder = folder
    self._manifest = manifest
    self._temperature = temperature

  @functools.cached_property
  def rates(self) -> Mapping[str, float]:
    pairs = self._manifest["pairs"]
    rates = {name: pair["rate"] for name, pair in pairs.items() if pair["rate"]}
    if self._temperature is not None:
      exponent = 1 / self._temperature
      rates = {name: self.size(name, "train") ** exponent for name in rates}
    total = sum(rates.values())
    return {name: rate / total for name, rate in rates.items()}

  def parts(self, pair: str) -> tuple[str, ...]:
    return tuple(self._parts(pair))

  def size(self, pair: str, part: str) -> int:
    return self._part(pair, part)["size"]

  def text(self, pair: str, part: str) -> Text:
    """The text as it was read; the train part is decoded from its tokens."""
    decode = _decode_bytes
    if part == "train":
      decode = self._decode_tokens
    return _CachedText(self._columns(pair, part), decode)

  def train_examples(self, pair: str, vocabulary: Vocabulary) -> TrainExamples:
    if vocabulary.checksum != self.vocabulary.checksum:
      raise TaskMoeError(
        f"the cache {str(self._folder)!r} was tokenised with the vocabulary of"
        f" checksum {self.vocabulary.checksum[:12]}, and the run's"
        f" {vocabulary.origin!r} has {vocabulary.checksum[:12]}. Set VOCABULARY"
        " to the cache's vocabulary.model, or make a cache with the run's."
      )
    columns = self._columns(pair, "train")
    return _CachedExamples(columns)

  def _decode_tokens(self, lines: list[np.ndarray]) -> list[str]:
    return self.vocabulary.decode([line.tolist() for line in lines])

  def _parts(self, pair: str) -> Mapping[str, Any]:
    if pair not in self._manifest["pairs"]:
      raise TaskMoeError(
        f"{one_of('pair', pair, self.pairs)} in the cache"
        f" {str(self._folder)!r}."
      )
    return self._manifest["texts"][self._manifest["pairs"][pair]["text"]]

  def _part(self, pair: str, part: str) -> Mapping[str, Any]:
    parts = self._parts(pair)
    if part not in parts:
      raise TaskMoeError(
        one_of(f"part of {pair}", part, parts)
        + ". Set --part, or make a cache that has it."
      )
    return parts[part]

  def _columns(self, pair: str, part: str) -> CachedColumns:
    entry = self._manifest["pairs"][pair]
    found = self._part(pair, part)
    per_shard = self._manifest["examples_per_shard"]
    return CachedColumns(
      self._folder,
      cache_files.shards_of(entry["text"], part, found["size"], per_shard),
      per_shard,
      swapped=entry["swapped"],
    )


class _CachedExamples(TrainExamples):
  """Token ids from the cache, where lengths are nearly free."""

  blocks_ahead = 16

  def __init__(self, columns: CachedColumns):
    self.size = len(columns)
    self._columns = columns

  def sizes(
    self, indices: Int[np.ndarray, "examples"]
  ) -> Int[np.ndarray, "examples 2"]:
    return self._columns.sizes(indices)

  def tokens(
    self, indices: Int[np.ndarray, "examples"]
  ) -> tuple[Ragged, Ragged]:
    return self._columns.read(indices)


class _CachedText:
  """Sentences from the cache, by index."""

  def __init__(
    self,
    columns: CachedColumns,
    decode: Callable[[list[np.ndarray]], list[str]],
  ):
    self._columns = columns
    self._decode = decode

  def __len__(self) -> int:
    return len(self._columns)

  def __getitem__(self, index: int) -> tuple[str, str]:
    if not 0 <= index < len(self):
      raise IndexError(index)
    return self.read([index])[0]

  def read(self, indices: Sequence[int]) -> list[tuple[str, str]]:
    """Reads many sentences at once, in the order of the indices."""
    sides = self._columns.read(np.array(indices, np.int64))
    texts = [
      self._decode(np.split(ids, np.cumsum(sizes)[:-1])) for ids, sizes in sides
    ]
    return list(zip(*texts, strict=True))


def _decode_bytes(lines: list[np.ndarray]) -> list[str]:
  return [line.tobytes().decode() for line in lines]

"""Sources and targets of a cache by index, through all shards."""

import dataclasses
import functools
import pathlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from taskmoe_jax.data import cache_files
from taskmoe_jax.data.cache_files import Shard
from taskmoe_jax.data.packing import Ragged


@dataclasses.dataclass(frozen=True)
class CachedColumns:
  """Sources and targets by index: token ids, or bytes of UTF-8.

  Attributes:
    folder: Of the cache.
    shards: All, in order.
    per_shard: Examples in each but the last.
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
    """Where the sides of each example begin, and where the second ends."""
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
    """Reads places of shards, one shard after another."""
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

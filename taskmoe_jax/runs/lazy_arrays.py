"""Parameters of a checkpoint, of which experts are read only as needed.

Orbax restores whole arrays. What it writes are TensorStore's, which can be read
in slices: so a sub-network takes the memory of its own experts, and not of the
mixture's, wherever the checkpoint is (a disk, `gs://`).
"""

import dataclasses
import itertools
import json
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import tensorstore as ts
from etils import epath
from flax import linen as nn
from jaxtyping import Int, PyTree, Shaped

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.runs.checkpoint_items import (
  DamagedError,
  check_same_arrays,
  checksum,
  first_line,
  path_name,
  read_contents,
  shapes_by_path,
)
from taskmoe_jax.task_space import TaskSpace

# Files that are read at a time: what they hold is in memory meanwhile.
_FILES_AT_A_TIME = 4


@dataclasses.dataclass(frozen=True)
class LazyArray:
  """Experts in a checkpoint, `[blocks, E, ...]`; never read as a whole.

  Attributes:
    path: Its name, such as `decoder/blocks/layer_1/moe/experts/wi`.
    checksum: What training has written; see `runs.checkpoint_items`.
  """

  path: str
  checksum: int
  _store: ts.TensorStore

  @property
  def shape(self) -> tuple[int, ...]:
    return tuple(self._store.shape)

  @property
  def ndim(self) -> int:
    return self._store.ndim

  @property
  def dtype(self) -> np.dtype:
    return np.dtype(self._store.dtype.numpy_dtype)

  @property
  def size(self) -> int:
    return self._store.size

  @property
  def nbytes(self) -> int:
    return self.size * self.dtype.itemsize

  def take(
    self, chosen: Int[np.ndarray, "blocks M"]
  ) -> Shaped[np.ndarray, "blocks M _ _"]:
    """Reads these experts of each block."""
    blocks = np.arange(len(chosen))[:, None]
    return _read(self._store[blocks, np.asarray(chosen)], self.path)

  def piece(self, block: int, expert: int) -> Shaped[np.ndarray, "_ _"]:
    return _read(self._store[block, expert], self.path)

  def pieces(self) -> Iterator[Shaped[np.ndarray, "_ _"]]:
    """Reads one expert after the other, in the order they are stored in."""
    for block, expert in itertools.product(*map(range, self.shape[:2])):
      yield self.piece(block, expert)


def read_lazy_params(
  folder: epath.Path, model: ModelConfig, task_space: TaskSpace
) -> PyTree:
  """The parameters of a checkpoint: experts as `LazyArray`s, all else read.

  Args:
    folder: The checkpoint's folder.
    model: The run's model.
    task_space: The run's tasks.

  Returns:
    A tree of NumPy's arrays, compared with their checksums, and of
    `LazyArray`s, which are not.

  Raises:
    TaskMoeError: The checkpoint is of another model, or it is damaged.
  """
  shapes = nn.unbox(
    parameters.abstract_params(Transformer(model, len(task_space.tasks)))
  )
  try:
    contents = read_contents(folder)
    check_same_arrays(folder, contents, "params", shapes_by_path(shapes))
    sums = {path: entry[1] for path, entry in contents["params"].items()}
    opened = _opened(folder / "params", list(sums))
    return jax.tree_util.tree_map_with_path(
      lambda path, _: _leaf(path_name(path), sums, opened), shapes
    )
  except TaskMoeError:
    raise
  except (DamagedError, OSError, ValueError, KeyError) as error:
    raise damaged(folder, first_line(error)) from None


def damaged(folder: epath.Path, reason: str) -> TaskMoeError:
  """What is said of a checkpoint that is not as it was written."""
  return TaskMoeError(
    f"checkpoint {str(folder)!r} is damaged ({reason}). Set --step to another."
  )


def _leaf(
  path: str, sums: dict[str, int], opened: dict[str, ts.TensorStore]
) -> Any:
  if "/moe/experts/" in path:
    return LazyArray(path, sums[path], opened[path])
  array = _read(opened[path], path)
  if int(checksum(array)) != sums[path]:
    raise DamagedError(f"params/{path} is not what was written")
  return array


def _opened(folder: epath.Path, paths: list[str]) -> dict[str, ts.TensorStore]:
  """Opens arrays as Orbax does, which knows where they are and how written."""
  written = json.loads((folder / "_METADATA").read_text())
  context = ocp.type_handlers.get_ts_context(
    use_ocdbt=written["use_ocdbt"], file_io_concurrency_limit=_FILES_AT_A_TIME
  )
  stores = {}
  for path in paths:
    info = ocp.type_handlers.ParamInfo(
      name=path.replace("/", "."),
      parent_dir=folder,
      use_zarr3=written["use_zarr3"],
      ts_context=context,
    )
    spec = ocp.type_handlers.get_json_tspec_read(info, written["use_ocdbt"])
    stores[path] = ts.open(ts.Spec(spec), open=True, context=context)
  return {path: store.result() for path, store in stores.items()}


def _read(store: ts.TensorStore, path: str) -> np.ndarray:
  try:
    return store.read().result()
  except ValueError as error:
    raise DamagedError(f"params/{path}: {first_line(error)}") from None

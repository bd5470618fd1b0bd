"""Writes and reads arrays in the format of safetensors, piece by piece.

The library wants all arrays in memory. The format does not: a header says where
each begins, then come their bytes. So experts that a bundle keeps go from a
checkpoint into its file one at a time, and are compared one at a time. (What
the library maps into memory counts as memory once it was looked at.)
"""

import json
import math
from collections.abc import Iterator, Mapping
from typing import BinaryIO, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath


@runtime_checkable
class PiecewiseArray(Protocol):
  """An array that is read piece by piece, such as experts in a checkpoint.

  `runs.lazy_arrays.LazyArray` is one. Named here as a protocol, so that loading
  a bundle does not import Orbax and TensorStore.
  """

  @property
  def shape(self) -> tuple[int, ...]: ...

  @property
  def dtype(self) -> np.dtype: ...

  @property
  def nbytes(self) -> int: ...

  def pieces(self) -> Iterator[np.ndarray]:
    """Reads one piece after another, in the order of their bytes."""


Arrays = Mapping[str, np.ndarray | jax.Array | PiecewiseArray]

_DTYPES = {
  "float32": "F32",
  "float16": "F16",
  "bfloat16": "BF16",
  "int32": "I32",
  "int8": "I8",
  "uint8": "U8",
}
# The header is padded with spaces to a multiple of this many bytes.
_ALIGNMENT = 8


def write_arrays(path: epath.Path, arrays: Arrays) -> None:
  """Writes arrays by name; piecewise ones are never wholly in memory."""
  header, end = {}, 0
  for name, array in arrays.items():
    begin, end = end, end + array.nbytes
    header[name] = {
      "dtype": _DTYPES[array.dtype.name],
      "shape": list(array.shape),
      "data_offsets": [begin, end],
    }
  text = json.dumps(header).encode()
  text += b" " * (-len(text) % _ALIGNMENT)
  with path.open("wb") as file:
    file.write(len(text).to_bytes(8, "little"))
    file.write(text)
    for array in arrays.values():
      for piece in _pieces(array):
        file.write(piece.tobytes())


class WrittenArrays:
  """A file of arrays, open for reading."""

  def __init__(self, file: BinaryIO):
    self._file = file
    size = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(size))
    self._entries = {
      name: entry for name, entry in header.items() if name != "__metadata__"
    }
    self._begin = 8 + size

  @property
  def names(self) -> tuple[str, ...]:
    return tuple(self._entries)

  def shape(self, name: str) -> tuple[int, ...]:
    return tuple(self._entries[name]["shape"])

  def read(
    self, name: str, shape: tuple[int, ...] | None = None, index: int = 0
  ) -> np.ndarray:
    """Reads an array, or the piece at an index if cut into this shape."""
    entry = self._entries[name]
    shape = self.shape(name) if shape is None else shape
    names = {code: dtype for dtype, code in _DTYPES.items()}
    dtype = jnp.dtype(names[entry["dtype"]])
    size = math.prod(shape) * dtype.itemsize
    first = self._begin + entry["data_offsets"][0]
    self._file.seek(first + index * size)
    return np.frombuffer(self._file.read(size), dtype).reshape(shape)


def _pieces(
  array: np.ndarray | jax.Array | PiecewiseArray,
) -> Iterator[np.ndarray]:
  if isinstance(array, PiecewiseArray):
    yield from array.pieces()
  else:
    yield np.asarray(array)

"""Checksums of arrays, by which a damaged checkpoint is recognised.

Storage returns other numbers than it was given more quietly than one would
think: neither Zarr nor OCDBT, in which Orbax writes, has checksums of values.
These here are taken of the arrays, not of files: computed where the arrays lie,
the same on every mesh, and whatever the files' format.
"""

import json
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree, Shaped, UInt32

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def checksum(
  array: Shaped[Array | np.ndarray, "..."], first: int | Array = 0
) -> UInt32[Array, ""]:
  """The sum, modulo 2^32, of a hash of each number's bits and place.

  A sum of integers is the same in any order, and so on any mesh; and that of an
  array is the sum of its pieces'. The hash is that of MurmurHash3's finaliser.

  Args:
    array: The numbers.
    first: The place of its first number, modulo 2^32, if it is a piece of one.
  """
  unsigned = _UNSIGNED[array.dtype.itemsize]
  if array.dtype == jnp.bool_:
    array = array.astype(unsigned)
  bits = jax.lax.bitcast_convert_type(array, unsigned).astype(jnp.uint32)
  place = jnp.full(array.shape, first, jnp.uint32)
  stride = 1
  for axis in reversed(range(array.ndim)):
    step = jnp.uint32(stride % 2**32)
    place += step * jax.lax.broadcasted_iota(jnp.uint32, array.shape, axis)
    stride *= array.shape[axis]
  hashed = bits ^ (place * jnp.uint32(0x9E3779B1))
  for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
    hashed = (hashed ^ (hashed >> shift)) * jnp.uint32(factor)
  return jnp.sum(hashed ^ (hashed >> 16), dtype=jnp.uint32)


@jax.jit
def _all(arrays):
  """In one program: of many small ones in flight at once, each with sums over
  devices, those of two processes can wait for each other for ever.
  """
  return [checksum(array) for array in arrays]


def checksums(tree: PyTree) -> dict[str, int]:
  """The checksum of each array of a tree, by its path `decoder/table`."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  names = [path_name(path) for path, _ in paths]
  found = dict(zip(names, _all([leaf for _, leaf in paths]), strict=True))
  return {path: int(value) for path, value in jax.device_get(found).items()}


def path_name(path: tuple) -> str:
  """`decoder/final_norm/scale`, whatever kind of tree it is in."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def text_checksum(value: Any) -> int:
  """Of what can be written as JSON."""
  return zlib.crc32(json.dumps(value, sort_keys=True).encode())

"""The items of one checkpoint: how they are written, read and checked.

`contents` says what the others are: of an item of arrays the shape and checksum
of each by its path, of a text its checksum.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jaxtyping import Array, PyTree, Shaped, UInt32

from taskmoe_jax.errors import TaskMoeError

_UNSIGNED = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}


@jax.jit
def checksum(
  array: Shaped[Array | np.ndarray, "..."], first: int | Array = 0
) -> UInt32[Array, ""]:
  """The sum, modulo 2^32, of a hash of each number's bits and place.

  A sum of integers is the same in any order, and so on any mesh; and that of an
  array is the sum of its pieces'. The hash is that of MurmurHash3's finalizer.

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


Contents = dict[str, Any]
Shapes = dict[str, tuple[int, ...]]

_SETTINGS = {
  "optimizer": "OPTIMIZER as it was",
  "params": "MODEL as it was trained",
}


class DamagedError(Exception):
  """What was read is not what was written."""


def saved_items(
  arrays: Mapping[str, PyTree], texts: Mapping[str, Any]
) -> ocp.args.Composite:
  """What to hand to Orbax, the description of it all included.

  Args:
    arrays: Trees of arrays, by the item's name.
    texts: Values for JSON, by the item's name.
  """
  contents: Contents = {
    name: text_checksum(value) for name, value in texts.items()
  }
  for name, tree in arrays.items():
    shapes, sums = shapes_by_path(tree), checksums(tree)
    contents[name] = {path: [list(shapes[path]), sums[path]] for path in shapes}
  return ocp.args.Composite(
    **{
      name: ocp.args.StandardSave(
        tree, save_args=_save_args(tree) if name == "params" else None
      )
      for name, tree in arrays.items()
    },
    **{name: ocp.args.JsonSave(value) for name, value in texts.items()},
    contents=ocp.args.JsonSave(
      {"items": contents, "checksum": text_checksum(contents)}
    ),
  )


def _save_args(tree: PyTree) -> PyTree:
  """Each expert of each block is stored separately, to be read without others.

  That is what export does with a model larger than its machine.
  """

  def of(path: tuple, leaf: Any) -> ocp.SaveArgs:
    experts = "/moe/experts/" in path_name(path)
    return ocp.SaveArgs(shard_axes=(0, 1) if experts else ())

  return jax.tree_util.tree_map_with_path(of, tree)


def read_contents(folder: epath.Path) -> Contents:
  """What a checkpoint has in it; an error if that cannot be told."""
  found = _json(folder, "contents")
  if found["checksum"] != text_checksum(found["items"]):
    raise DamagedError("contents are not what was written")
  return found["items"]


def saved_shapes(contents: Contents, name: str) -> Shapes:
  """Shapes of an item's arrays."""
  return {path: tuple(shape) for path, (shape, _) in contents[name].items()}


def read_arrays(
  folder: epath.Path, wanted: Mapping[str, PyTree]
) -> dict[str, PyTree]:
  """Reads items of arrays, and compares them with their checksums.

  Args:
    folder: The checkpoint's folder.
    wanted: Shapes, dtypes and shardings, by the item's name.

  Raises:
    TaskMoeError: The checkpoint is whole, but of other arrays.
    DamagedError: Something is not what was written. Other errors of Orbax and
      TensorStore mean the same.
  """
  contents = read_contents(folder)
  for name, shapes in wanted.items():
    check_same_arrays(folder, contents, name, shapes_by_path(shapes))
  read = {}
  for name, shapes in wanted.items():
    with ocp.StandardCheckpointer() as checkpointer:
      read[name] = checkpointer.restore(folder / name, shapes)
    sums = checksums(read[name])
    wrong = [p for p in sums if sums[p] != contents[name][p][1]]
    if wrong:
      raise DamagedError(
        f"{name}/{wrong[0]} is not what was written"
        + (f", nor are {len(wrong) - 1} more" if len(wrong) > 1 else "")
      )
  return read


def read_text(folder: epath.Path, name: str) -> Any:
  """Reads an item of JSON, and compares it with its checksum."""
  value = _json(folder, name)
  if text_checksum(value) != read_contents(folder)[name]:
    raise DamagedError(f"{name} is not what was written")
  return value


def check_goes_on(folder: epath.Path) -> None:
  """Refuses a checkpoint of averaged parameters, from which no run can resume.

  Of one that cannot be read it says nothing: that is for `restore`, which knows
  what to do about damage.
  """
  try:
    contents = read_contents(folder)
  except Exception:
    return
  if "optimizer" not in contents:
    raise TaskMoeError(
      f"checkpoint {str(folder)!r} has no optimizer: it holds averaged"
      " parameters, from which no run can resume. Set RUN_DIR to another"
      " folder, and INITIAL_RUN to this one, to start from its parameters."
    )


def check_same_arrays(
  folder: epath.Path, contents: Contents, name: str, wanted: Shapes
) -> None:
  """Refuses a checkpoint whose item holds other arrays than wanted."""
  found = saved_shapes(contents, name)
  for path in [*wanted, *(path for path in found if path not in wanted)]:
    if found.get(path) != wanted.get(path):
      there, here = (
        "missing" if shape is None else f"of shape {list(shape)}"
        for shape in (found.get(path), wanted.get(path))
      )
      raise TaskMoeError(
        f"checkpoint {str(folder)!r} is of another {name}: {path} is {there}"
        f" there, and {here} in this recipe. Set {_SETTINGS[name]}, or RUN_DIR"
        " to another folder (and INITIAL_RUN to this one, to start from its"
        " parameters)."
      )


def size(tree: PyTree) -> int:
  """Bytes of all arrays of a tree."""
  return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def shapes_by_path(tree: PyTree) -> Shapes:
  """Shapes of arrays, or of what has their shapes."""
  paths, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {path_name(path): tuple(leaf.shape) for path, leaf in paths}


def first_line(error: Exception) -> str:
  """The kind of an error and its first line, shortened in the middle.

  TensorStore begins with what it did, to which path, and ends with the reason.
  """
  lines = str(error).strip().splitlines()
  if not lines:
    return repr(error)
  line = lines[0]
  if len(line) > 300:
    line = f"{line[:180]} ... {line[-110:]}"
  return f"{type(error).__name__}: {line}"


def _json(folder: epath.Path, name: str) -> Any:
  return json.loads((folder / name / "metadata").read_text())

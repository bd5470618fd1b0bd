"""Checks a bundle number by number, where its mixture does not fit into memory.

Three steps, none of which needs more than a few experts at a time:

1. The whole checkpoint is read once, expert by expert, and compared with the
   checksums that training computed on its devices. So what lies there is what
   was trained; and of each expert and array a checksum is kept.
2. Of each bundle, as it is read back from its file, all numbers are compared
   bit for bit: kept arrays by those checksums, merged experts with the root of
   their gates times what the checkpoint holds, put together here once more in
   NumPy, without the code that extracts.
3. The experts and gates themselves are computed anew in float64.

What is left is a theorem (`extract`), which the tests of small models prove.
"""

import dataclasses
import math
import zlib
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from etils import epath
from flax import traverse_util
from jaxtyping import PyTree

from taskmoe_jax.bundles.arrays import WrittenArrays
from taskmoe_jax.bundles.bundle import opened_arrays
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.extract import folded_into
from taskmoe_jax.export.selection import SelectedExperts
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.granularity import STATIC
from taskmoe_jax.runs.checkpoint_items import checksum
from taskmoe_jax.runs.lazy_arrays import LazyArray, damaged

# Largest difference of two gates, one of them computed in float32.
_GATE_TOLERANCE = 1e-5

Sums = dict[str, int]


@dataclasses.dataclass(frozen=True)
class NumberCheck:
  """How a bundle compared to a checkpoint, number by number.

  Attributes:
    arrays: How many arrays of the bundle were compared.
    numbers: How many numbers they have.
    max_gate_difference: From gates in float64.
  """

  arrays: int
  numbers: int
  max_gate_difference: float


def sums_of_checkpoint(
  params: PyTree,
  folder: epath.Path,
  *,
  advance: Callable[[int], None] = lambda _: None,
) -> Sums:
  """Reads all of a checkpoint, and compares it with what was trained.

  Args:
    params: See `lazy_arrays.read_lazy_params`.
    folder: Of the checkpoint, for the error.
    advance: Told how many bytes were read, again and again.

  Returns:
    Checksums of all arrays by path, and of experts by `path[block,expert]`.

  Raises:
    TaskMoeError: Some number is not what training wrote.
  """
  sums = {}
  for path, array in traverse_util.flatten_dict(params, sep="/").items():
    if not isinstance(array, LazyArray):
      # Compared when it was read.
      sums[path] = _sum_of(array)
      advance(array.nbytes)
      continue
    first, total = 0, 0
    for name, piece in zip(_names(array), array.pieces(), strict=True):
      total += int(checksum(piece, np.uint32(first % 2**32)))
      first += piece.size
      sums[name] = _sum_of(piece)
      advance(piece.nbytes)
    if total % 2**32 != array.checksum:
      raise damaged(folder, f"params/{path} is not what was written")
  return sums


def compare_numbers(
  folder: epath.Path,
  params: PyTree,
  model: ModelConfig,
  task_ids: tuple[int, ...],
  selected: Mapping[str, SelectedExperts],
  sums: Sums,
) -> NumberCheck:
  """Compares all numbers of a bundle with those of a checkpoint.

  Args:
    folder: Of the bundle.
    params: Of the mixture, see `lazy_arrays.read_lazy_params`.
    model: Of the mixture.
    task_ids: Of the bundle's tasks, in the mixture.
    selected: The experts that it has, by stack.
    sums: Of the checkpoint.

  Raises:
    TaskMoeError: The bundle holds another number.
  """
  flat = traverse_util.flatten_dict(params, sep="/")
  numbers = 0
  with opened_arrays(folder) as written:
    for name in written.names:
      numbers += math.prod(written.shape(name))
      chosen = selected.get(name.split("/", 1)[0])
      if not _same(name, written, flat, task_ids, chosen, sums):
        raise TaskMoeError(
          f"the sub-network's {name} is not its mixture's. Nothing was written."
        )
  difference = max(
    gate_difference(params[name], getattr(model, name), task_ids, chosen)
    for name, chosen in selected.items()
  )
  if not difference <= _GATE_TOLERANCE:
    raise TaskMoeError(
      "the sub-network has other experts or gates than its mixture: computed"
      f" in float64, they differ by {difference:.1e} (at most"
      f" {_GATE_TOLERANCE:.0e} is rounding). Nothing was written."
    )
  return NumberCheck(len(written.names), numbers, difference)


def _sum_of(array: np.ndarray) -> int:
  return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8))


def _names(array: LazyArray) -> Iterator[str]:
  """Those of its pieces, in their order."""
  blocks, experts = array.shape[:2]
  for block in range(blocks):
    for expert in range(experts):
      yield f"{array.path}[{block},{expert}]"


def _same(
  name: str,
  written: WrittenArrays,
  flat: Mapping[str, np.ndarray | LazyArray],
  task_ids: tuple[int, ...],
  chosen: SelectedExperts | None,
  sums: Sums,
) -> bool:
  """Whether an array of a bundle is what becomes of the checkpoint's."""
  original = flat.get(name)
  if chosen is None and isinstance(original, LazyArray):
    # Kept: one expert after the other.
    return written.shape(name) == original.shape and all(
      _sum_of(written.read(name, original.shape[2:], index)) == sums[piece]
      for index, piece in enumerate(_names(original))
    )
  array = written.read(name)
  if chosen is not None:
    if original is None or isinstance(original, LazyArray):
      experts = flat[name.replace("/mlp/", "/moe/experts/")]
      assert isinstance(experts, LazyArray)
      folder, matrix = experts.path.rsplit("/", 1)
      gated = ("wi_1",) if f"{folder}/wi_1" in flat else ()
      fold = chosen.gates is not None and matrix in folded_into(gated)
      return _same_experts(array, experts, chosen, sums, fold=fold)
    if name.endswith("/task_table"):
      return np.array_equal(array, original[list(task_ids)])
    if "/moe/router/" in name:
      rows = zip(original, chosen.experts, strict=True)
      return np.array_equal(array, [row[..., kept] for row, kept in rows])
  if original is None:
    return False
  return array.shape == original.shape and _sum_of(array) == sums[name]


def _same_experts(
  array: np.ndarray,
  original: LazyArray,
  chosen: SelectedExperts,
  sums: Sums,
  *,
  fold: bool,
) -> bool:
  """Whether merged or selected experts are those of the checkpoint."""
  for block, experts in enumerate(chosen.experts):
    parts = array[block]
    if array.ndim == original.ndim - 1:
      # Side by side along the hidden axis, each F wide.
      axis = 0 if original.path.endswith("/wo") else 1
      parts = np.split(parts, len(experts), axis=axis)
    for place, expert in enumerate(experts):
      piece = original.piece(block, int(expert))
      if _sum_of(piece) != sums[f"{original.path}[{block},{expert}]"]:
        return False
      if fold and chosen.gates is not None:
        piece = piece * np.sqrt(chosen.gates[block, place])
      if not np.array_equal(parts[place], piece):
        return False
  return True


def gate_difference(
  weights: Mapping[str, PyTree],
  stack: StackConfig,
  task_ids: tuple[int, ...],
  chosen: SelectedExperts,
) -> float:
  """Largest difference from gates in float64; infinite for other experts."""
  moe = stack.require_moe()
  if not moe.granularity.has_gate:
    if moe.granularity != STATIC:
      # A table from outside the package has no second definition to compare.
      return 0.0
    dealt = [
      (task * moe.num_selected + place) % moe.num_experts
      for task in task_ids
      for place in range(moe.num_selected)
    ]
    experts = chosen.experts
    # Tasks that agree are served by one of them.
    first = dealt[: experts.shape[1]]
    same = np.array_equal(experts, np.tile(first, (len(experts), 1)))
    return 0.0 if same else float("inf")
  layer = weights["blocks"][stack.moe_layer]["moe"]["router"]
  by_task = moe.granularity.by_task
  number = moe.num_selected if by_task else moe.num_candidates
  differences = [0.0]
  for block, gate in enumerate(layer[moe.granularity.task_gate]):
    for place, task in enumerate(task_ids):
      scores = weights["task_table"][task].astype(float) @ gate.astype(float)
      best = np.argsort(-scores, kind="stable")[:number]
      lost = scores[best][~np.isin(best, chosen.experts[block])]
      # In float32 a tie may end otherwise: then what was taken is as good.
      if lost.size and lost.max() > scores[best].min() + _GATE_TOLERANCE:
        return float("inf")
      if chosen.gates is not None and not lost.size:
        copies = chosen.gates.shape[1] // number
        own = place * number if copies > 1 else 0
        gates = np.exp(scores - scores.max())
        gates /= gates[best].sum() if number > 1 else gates.sum()
        kept = slice(own, own + number)
        found = gates[chosen.experts[block, kept]]
        differences.append(np.abs(found - chosen.gates[block, kept]).max())
  return float(max(differences))

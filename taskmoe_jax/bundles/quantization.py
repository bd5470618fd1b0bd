"""Weights rounded to 8 or 4 bits, with a scale for those that belong together.

Only weights are rounded; what is computed with them is float32, after loading.
So this is for disks and networks; an engine that multiplies small integers has
a format of its own (`ctranslate2_int8`).

int8: every matrix and vocabulary table has one scale for each output, the
largest of its inputs divided by 127. Symmetric: zero stays zero.

int4: in feed-forward networks, of experts or not, every 32 inputs of an output
have a float16 scale, the largest divided by 7; two numbers share a byte, so a
weight takes 4.5 bits. One scale for all inputs would be that of the largest of
thousands, and 15 steps are too few for the others (docs/shrinking.md has what
groups of other sizes cost). Only feed-forward networks, as Kim et al. 2022
(arXiv 2211.10017) do with experts: there are most of a mixture's weights.

Routers, task tables, position biases and norms stay what they are. They are
small, and a router that is rounded chooses other experts.

The arrays that are written: `NAME`, the integers, and `NAME.scale`.
"""

import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float, Int8, UInt8

from taskmoe_jax.errors import TaskMoeError, one_of

GROUP = 32
_SCALE = ".scale"
_LEVELS = {8: 127, 4: 7}
# The axes along which an output is summed up, by the name of its weights.
_INPUTS = {
  "wi": (-2,),
  "wi_1": (-2,),
  "wo": (-2,),
  "query": (-3,),
  "key": (-3,),
  "value": (-3,),
  "out": (-3, -2),
}
_FEED_FORWARD = ("wi", "wi_1", "wo")
VOCABULARIES = ("embedding/table", "decoder_embedding/table", "softmax/table")

Arrays = dict[str, np.ndarray]


class Quantization(enum.StrEnum):
  """To how many bits weights are rounded."""

  INT8 = "int8"
  # Feed-forward networks to 4, all else to 8.
  INT8_INT4 = "int8_int4"


def quantization_named(name: str) -> Quantization:
  """Raises a `TaskMoeError` if there is none of this name."""
  if name not in list(Quantization):
    raise TaskMoeError(
      one_of("quantization", name, list(Quantization)) + ". Set --quantize."
    )
  return Quantization(name)


def quantize(
  params: Mapping[str, np.ndarray], quantization: Quantization
) -> tuple[Arrays, dict[str, dict[str, Any]]]:
  """Rounds the weights of a model.

  Args:
    params: By their paths, `decoder/blocks/layer_0/mlp/wi`.
    quantization: How.

  Returns:
    The arrays to write, and what is needed to read them: for each name that was
    rounded its `bits`, and its `shape` where that is not the array's own.

  Raises:
    TaskMoeError: A weight is not a number, or too large for its scale.
  """
  arrays, notes = {}, {}
  for name, weights in params.items():
    weights = np.asarray(weights)
    axes = _input_axes(name)
    if axes is None:
      arrays[name] = weights
      continue
    if _leaf(name) in _FEED_FORWARD and quantization is Quantization.INT8_INT4:
      numbers, scale = _to_int4(weights)
      notes[name] = {"bits": 4, "shape": list(weights.shape)}
    else:
      numbers, scale = _to_int8(weights, axes)
      notes[name] = {"bits": 8}
    _check_rounding(name, weights, numbers, scale, notes[name])
    arrays[name], arrays[name + _SCALE] = numbers, scale
  return arrays, notes


def dequantize(
  arrays: Mapping[str, np.ndarray], notes: Mapping[str, Mapping[str, Any]]
) -> Arrays:
  """The parameters that `quantize` has rounded, in float32."""
  scales = {name + _SCALE for name in notes}
  return {
    name: _restored(array, arrays[name + _SCALE], notes[name])
    if name in notes
    else array
    for name, array in arrays.items()
    if name not in scales
  }


def _input_axes(name: str) -> tuple[int, ...] | None:
  """Which axes share a scale; None of what is not rounded."""
  return (-1,) if name in VOCABULARIES else _INPUTS.get(_leaf(name))


def _leaf(name: str) -> str:
  return name.rpartition("/")[2]


def _to_int8(
  weights: Float[np.ndarray, "*shape"], axes: tuple[int, ...]
) -> tuple[Int8[np.ndarray, "*shape"], Float[np.ndarray, "*kept"]]:
  largest = np.abs(weights).max(axis=axes, keepdims=True)
  scale = _none_zero((largest / _LEVELS[8]).astype(np.float32))
  return _rounded(weights / scale, 8), scale


def _to_int4(
  weights: Float[np.ndarray, "*leading inputs outputs"],
) -> tuple[
  UInt8[np.ndarray, "*leading outputs bytes"],
  Float[np.ndarray, "*leading outputs groups"],
]:
  """The last group is filled up with zeros if inputs do not come out even."""
  columns = np.swapaxes(weights, -1, -2)
  *leading, inputs = columns.shape
  groups = math.ceil(inputs / GROUP)
  filling = [(0, 0)] * len(leading) + [(0, groups * GROUP - inputs)]
  grouped = np.pad(columns, filling).reshape(*leading, groups, GROUP)
  largest = np.abs(grouped).max(axis=-1)
  scale = _none_zero(_up_to_float16(largest / _LEVELS[4]))
  numbers = _rounded(grouped / scale[..., None].astype(np.float32), 4)
  # From 1 to 15; the first of two is in the lower half of the byte.
  nibbles = (numbers + 8).astype(np.uint8).reshape(*leading, groups * GROUP)
  return nibbles[..., ::2] | (nibbles[..., 1::2] << 4), scale


def _rounded(
  steps: Float[np.ndarray, "*shape"], bits: int
) -> Int8[np.ndarray, "*shape"]:
  """The nearest integer; what is not a number is 0, and found by the check."""
  levels = _LEVELS[bits]
  near = np.clip(np.rint(steps), -levels, levels)
  return np.nan_to_num(near, nan=0.0).astype(np.int8)


def _up_to_float16(values: np.ndarray) -> np.ndarray:
  """Rounds up, so that the largest weight is still within the steps."""
  with np.errstate(over="ignore"):
    near = values.astype(np.float16)
  above = np.nextafter(near, np.float16(np.inf))
  return np.where(near < values, above, near)


def _none_zero(scale: np.ndarray) -> np.ndarray:
  """Where all weights are zero any scale will do."""
  return np.where(scale == 0, scale.dtype.type(1), scale)


def _restored(
  numbers: np.ndarray, scale: np.ndarray, note: Mapping[str, Any]
) -> Float[np.ndarray, "..."]:
  if note["bits"] == 8:
    return numbers.astype(np.float32) * scale
  pairs = np.stack([numbers & 15, numbers >> 4], axis=-1)
  steps = pairs.reshape(*scale.shape, GROUP).astype(np.int8) - 8
  weights = steps.astype(np.float32) * scale[..., None].astype(np.float32)
  return _inputs_last_to_shape(weights, note["shape"])


def _inputs_last_to_shape(
  grouped: np.ndarray, shape: list[int]
) -> Float[np.ndarray, "..."]:
  """From `[..., outputs, groups, 32]` to `[..., inputs, outputs]`."""
  columns = grouped.reshape(*grouped.shape[:-2], -1)[..., : shape[-2]]
  return np.ascontiguousarray(np.swapaxes(columns, -1, -2))


def _check_rounding(
  name: str,
  weights: np.ndarray,
  numbers: np.ndarray,
  scale: np.ndarray,
  note: Mapping[str, Any],
) -> None:
  """Makes sure that every weight is within half a step of what is written."""
  found = _restored(numbers, scale, note)
  step = scale
  if note["bits"] == 4:
    wide = np.repeat(scale[..., None].astype(np.float32), GROUP, axis=-1)
    step = _inputs_last_to_shape(wide, note["shape"])
  # A little more, for the float32 of the product.
  good = np.abs(found - weights) <= 0.5001 * step
  if not good.all() or not np.isfinite(step).all():
    raise TaskMoeError(
      f"the weights {name} cannot be rounded to {note['bits']} bits: some are"
      " not finite, or larger than what has a scale. Look at the run's"
      " metrics, or leave out --quantize."
    )

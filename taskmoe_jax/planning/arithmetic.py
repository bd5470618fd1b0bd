"""FLOPs of a compiled program, each loop times its iterations.

Only matrix products count, as in `models.flops`; a program for TPUs has them as
convolutions. Positions without a number, such as those between the elements of
a dilated operand, are not counted (XLA does not count them either).
"""

import functools
import math
import re

import numpy as np

from taskmoe_jax.planning.hlo import Instruction, Module


def flops_of(module: Module) -> float:
  """FLOPs of one step on one device."""
  return math.fsum(
    times * _flops(module, instruction)
    for line, times in module.executed()
    for instruction in module.inside(line)
  )


def kernel_cost(instruction: Instruction) -> tuple[float, float] | None:
  """FLOPs and bytes that one of our own (Pallas) kernels declares."""
  if instruction.opcode != "custom-call":
    return None
  cost = instruction.attribute(r'"cost_estimate":(\{[^}]*\})')
  if cost is None:
    return None
  values = dict(re.findall(r'"(\w+)":"?(\d+)', cost))
  return float(values.get("flops", 0)), float(values.get("bytes_accessed", 0))


def _flops(module: Module, instruction: Instruction) -> float:
  if instruction.opcode == "convolution":
    return 2.0 * _convolution_products(module, instruction)
  if instruction.opcode == "dot":
    contracted = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}")
    assert contracted is not None, instruction.text
    left = module.shapes[instruction.operands[0]][0].dims
    depth = math.prod(left[int(axis)] for axis in contracted.split(",") if axis)
    return 2.0 * depth * instruction.shapes[0].size
  cost = kernel_cost(instruction)
  return cost[0] if cost else 0.0


def _convolution_products(module: Module, instruction: Instruction) -> int:
  labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.text)
  assert labels is not None, instruction.text
  left, right, out = labels.groups()
  given, kernel = (
    module.shapes[name][0].dims for name in instruction.operands[:2]
  )
  result = instruction.shapes[0].dims
  window = instruction.attribute(r"window=\{([^}]*)\}") or ""
  fields = dict(part.split("=") for part in window.split())
  spatial = sum(label.isdigit() for label in out)

  def field(name: str, place: int, default: int | str) -> int | str:
    values = fields.get(name)
    return values.split("x")[place] if values else default

  products = given[left.index("b")] * given[left.index("f")]
  products *= result[out.index("f")]
  for place in range(spatial):
    label = str(place)
    low = int(str(field("pad", place, "0_0")).partition("_")[0])
    products *= _overlaps(
      given[left.index(label)],
      kernel[right.index(label)],
      result[out.index(label)],
      int(field("stride", place, 1)),
      low,
      int(field("lhs_dilate", place, 1)),
      int(field("rhs_dilate", place, 1)),
    )
  groups = 1
  for name in ("feature_group_count", "batch_group_count"):
    groups *= int(instruction.attribute(rf"{name}=(\d+)") or 1)
  return products // groups


@functools.cache
def _overlaps(
  given: int,
  kernel: int,
  result: int,
  stride: int,
  low: int,
  given_dilation: int,
  kernel_dilation: int,
) -> int:
  """How often an element of the kernel meets an element of the input."""
  place = (
    np.arange(result)[:, None] * stride
    - low
    + np.arange(kernel)[None] * kernel_dilation
  )
  inside = (place >= 0) & (place <= (given - 1) * given_dilation)
  return int((inside & (place % given_dilation == 0)).sum())

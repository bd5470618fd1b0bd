"""FLOPs of a model, of a program, and the peak of a chip.

One multiplication and one addition are two FLOPs. Only products of matrices
count, in both numbers: all else is a hundredth of them in models worth
measuring, and no one else counts it either.

*Model FLOPs* are what the mathematics needs, whatever the program: K experts
for a token, every position of a row attending to every other (as in PaLM, arXiv
2204.02311, appendix B: no discount for the causal mask), no recomputation, no
padding of experts. MFU is made of them. *Hardware FLOPs* are what the program
does, recomputation, capacity and dispatch included.
"""

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

import jax
from jax.extend import core

from taskmoe_jax.models.config import ModelConfig, StackConfig

_TERA = 1e12

# Dense products in bfloat16, FLOP/s of one `jax.Device`, as their makers
# publish it: cloud.google.com/tpu/docs (a chip of v2, v3 and TPU7x is two
# devices) and NVIDIA's data sheets (without sparsity). First match counts.
_PEAKS = (
  (r"TPU v2", 45 / 2 * _TERA),
  (r"TPU v3", 123 / 2 * _TERA),
  (r"TPU v4", 275 * _TERA),
  (r"TPU v5( lite|e)", 197 * _TERA),
  (r"TPU v5p?", 459 * _TERA),
  (r"TPU v6( lite|e)", 918 * _TERA),
  (r"TPU ?v?7x?", 2307 / 2 * _TERA),
  (r"NVIDIA A100\b.*", 312 * _TERA),
  (r"NVIDIA H100 PCIe", 756 * _TERA),
  (r"NVIDIA H100 NVL", 835 * _TERA),
  (r"NVIDIA H100 80GB HBM3", 989 * _TERA),
  (r"NVIDIA H200 NVL", 835 * _TERA),
  (r"NVIDIA H200", 989 * _TERA),
)


def peak_flops(device_kind: str) -> float | None:
  """Peak FLOP/s of one device in bfloat16, or None for a kind not listed.

  None and no guess: a wrong peak would make an MFU that looks like a right one.
  A CPU has none.

  Args:
    device_kind: As `jax.Device` calls itself, such as `TPU v4`.
  """
  for pattern, peak in _PEAKS:
    if re.fullmatch(pattern, device_kind):
      return peak
  return None


# The backward pass is two products for each one of the forward pass.
TRAINING = 3


@dataclasses.dataclass(frozen=True)
class TokenFlops:
  """Model FLOPs of a forward pass, by the token that causes them.

  Attributes:
    source: Per source token: encoder, and the decoder's keys and values.
    target: Per target token: decoder and softmax.
  """

  source: int
  target: int

  def training_step(
    self, source_tokens: int | float, target_tokens: int | float
  ) -> int | float:
    """FLOPs of a step over these tokens, forward and backward."""
    return TRAINING * (
      self.source * source_tokens + self.target * target_tokens
    )


def token_flops(
  model: ModelConfig, *, source_length: int, target_length: int
) -> TokenFlops:
  """Model FLOPs of a token in rows of these lengths.

  By hand for one dense layer a stack, with widths D, N·H = A and F: a source
  token costs 8DA (query, key, value, out) + 4SA (attention) + 4DF, and 4DA for
  its keys and values in the decoder; a target token costs 8DA + 4TA, then 4DA +
  4SA to read the source, 4DF, and 2DV for the softmax.

  Args:
    model: The model's config.
    source_length: S, what a source token attends to, and a target token reads.
    target_length: T, what a target token attends to.
  """
  d, attention = model.embed_dim, model.num_heads * model.head_dim

  def self_attention(length: int) -> int:
    return 8 * d * attention + 4 * length * attention

  def feed_forwards(stack: StackConfig) -> int:
    matrices = model.activation.num_inputs + 1
    block = sum(2 * matrices * d * width for width in stack.mlp_dims)
    if stack.moe is not None:
      moe = stack.moe
      block += 2 * matrices * d * moe.num_selected * moe.expert_mlp_dim
      if moe.granularity.by_token and moe.granularity.has_gate:
        block += 2 * d * moe.num_experts
    return stack.num_blocks * block

  encoder, decoder = model.encoder, model.decoder
  return TokenFlops(
    source=encoder.num_layers * self_attention(source_length)
    + feed_forwards(encoder)
    + decoder.num_layers * 4 * d * attention,
    target=decoder.num_layers
    * (self_attention(target_length) + 4 * d * attention)
    + decoder.num_layers * 4 * source_length * attention
    + feed_forwards(decoder)
    + 2 * d * model.vocab_size,
  )


def program_flops(function: Callable, *args: Any) -> int:
  """Hardware FLOPs of a function, of all devices together.

  Counted in what JAX traces, so that nothing is compiled and no array exists;
  XLA's own count, which counts every loop as one iteration, is the same for
  programs without loops (`tests/models/test_flops.py`). Loops whose number of
  iterations is unknown count once; of the branches of a `cond` the most
  expensive counts.

  Args:
    function: Such as `TrainStep`.
    *args: Arrays or their shapes.
  """
  return _flops_of(jax.make_jaxpr(function)(*args).jaxpr)


def _flops_of(jaxpr: core.Jaxpr) -> int:
  return sum(map(_flops_of_equation, jaxpr.eqns))


def _flops_of_equation(equation: core.JaxprEqn) -> int:
  name, params = equation.primitive.name, equation.params
  if name == "dot_general":
    (contracted, _), _ = params["dimension_numbers"]
    left, out = _array(equation.invars[0]), _array(equation.outvars[0])
    depth = math.prod(left.shape[axis] for axis in contracted)
    return 2 * depth * out.size
  if name == "ragged_dot_general":
    return _flops_of_ragged(equation)
  inner = [_flops_of(jaxpr) for jaxpr in _inner(params)]
  if not inner:
    return 0
  if name == "cond":
    return max(inner)
  if name == "scan":
    return params["length"] * sum(inner)
  if name == "shard_map":
    # Its body is the program of one device.
    axes = (
      params["manual_axes"]
      if "manual_axes" in params
      else (params["newly_manual_axes"])
    )
    return math.prod(params["mesh"].shape[axis] for axis in axes) * sum(inner)
  return sum(inner)


def _array(variable: Any) -> jax.core.ShapedArray:
  """The shape of what a variable holds; of products it is an array."""
  return variable.aval


def _flops_of_ragged(equation: core.JaxprEqn) -> int:
  """Each row meets the one matrix of its group."""
  numbers = equation.params["ragged_dot_dimension_numbers"]
  (contracted, _), _ = numbers.dot_dimension_numbers
  left, out = _array(equation.invars[0]), _array(equation.outvars[0])
  depth = math.prod(left.shape[axis] for axis in contracted)
  # If rows are summed over, each group has its own matrix in the output, and
  # sums only its own rows.
  groups = 1
  if set(numbers.lhs_ragged_dimensions) <= set(contracted):
    groups = out.shape[0]
  return 2 * depth * out.size // groups


def _inner(params: dict[str, Any]) -> list[core.Jaxpr]:
  """The programs that an equation holds."""
  found = []
  for value in params.values():
    for item in value if isinstance(value, tuple | list) else (value,):
      if isinstance(item, core.ClosedJaxpr):
        found.append(item.jaxpr)
      elif isinstance(item, core.Jaxpr):
        found.append(item)
  return found

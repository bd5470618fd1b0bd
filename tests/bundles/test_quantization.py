import numpy as np
import pytest

from taskmoe_jax.bundles.quantization import (
  Quantization,
  dequantize,
  quantization_named,
  quantize,
)
from taskmoe_jax.errors import TaskMoeError

INT8, INT4 = Quantization


def normal(*shape):
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_eight_bits_by_hand():
  """Two outputs of three inputs; each has its own scale."""
  weights = np.array([[1.27, -3.0], [0.014, 6.35], [-0.5, 0.0]], np.float32)
  arrays, notes = quantize({"encoder/mlp/wi": weights}, INT8)
  numbers = [[127, -60], [1, 127], [-50, 0]]
  np.testing.assert_array_equal(arrays["encoder/mlp/wi"], numbers)
  assert arrays["encoder/mlp/wi"].dtype == np.int8
  scale = arrays["encoder/mlp/wi.scale"]
  np.testing.assert_allclose(scale, [[0.01, 0.05]], rtol=1e-6)
  assert notes == {"encoder/mlp/wi": {"bits": 8}}
  (found,) = dequantize(arrays, notes).values()
  np.testing.assert_allclose(found, numbers * scale, rtol=1e-6)


def test_four_bits_by_hand():
  """34 inputs: a group of 32, and one of two; the first two share a byte."""
  weights = np.zeros((34, 1), np.float32)
  weights[:3, 0] = 7, -3.4, 1
  weights[32:, 0] = 0.4375, -0.1875
  arrays, notes = quantize({"mlp/wo": weights}, INT4)
  assert notes == {"mlp/wo": {"bits": 4, "shape": [34, 1]}}
  assert arrays["mlp/wo"].shape == (1, 32)
  assert arrays["mlp/wo"][0, :3].tolist() == [15 + 16 * 5, 9 + 16 * 8, 136]
  assert arrays["mlp/wo"][0, 16] == 15 + 16 * 5
  scale = arrays["mlp/wo.scale"]
  assert scale.dtype == np.float16
  assert scale.tolist() == [[1, 0.0625]]
  found = dequantize(arrays, notes)["mlp/wo"]
  assert found[:3, 0].tolist() == [7, -3, 1]
  assert found[32:, 0].tolist() == [0.4375, -0.1875]
  assert not found[3:32].any()


@pytest.mark.parametrize(
  ("name", "shape", "scales"),
  [
    ("decoder/blocks/layer_0/moe/experts/wi_1", (2, 5, 7, 6), (2, 5, 1, 6)),
    ("decoder/blocks/layer_0/mlp/wo", (2, 7, 6), (2, 1, 6)),
    ("encoder/blocks/layer_0/self_attention/key", (2, 7, 3, 5), (2, 1, 3, 5)),
    ("encoder/blocks/layer_0/self_attention/out", (2, 3, 5, 7), (2, 1, 1, 7)),
    ("embedding/table", (11, 7), (11, 1)),
    ("softmax/table", (11, 7), (11, 1)),
  ],
)
def test_each_output_has_a_scale(name, shape, scales):
  weights = normal(*shape)
  arrays, notes = quantize({name: weights}, INT8)
  assert arrays[name + ".scale"].shape == scales
  found = dequantize(arrays, notes)[name]
  step = np.broadcast_to(arrays[name + ".scale"], shape)
  assert (np.abs(found - weights) <= 0.5001 * step).all()
  # Half a step is reached nearly: more would be a wrong scale.
  assert np.abs((found - weights) / step).max() > 0.3


@pytest.mark.parametrize("inputs", [31, 32, 70])
def test_groups_of_experts(inputs):
  """As rounding each group by itself, in a loop."""
  weights = normal(3, inputs, 5)
  arrays, notes = quantize({"moe/experts/wi": weights}, INT4)
  found = dequantize(arrays, notes)["moe/experts/wi"]
  for expert in range(3):
    for output in range(5):
      for first in range(0, inputs, 32):
        group = weights[expert, first : first + 32, output]
        scale = np.float16(np.abs(group).max() / 7)
        if scale < np.abs(group).max() / 7:
          scale = np.nextafter(scale, np.float16(9))
        expected = np.rint(group / np.float32(scale)) * np.float32(scale)
        np.testing.assert_array_equal(
          found[expert, first : first + 32, output], expected
        )
  assert found.shape == weights.shape


def test_what_is_not_rounded():
  names = (
    "decoder/task_table",
    "decoder/position_bias/table",
    "decoder/blocks/layer_0/moe/router/table",
    "decoder/blocks/layer_0/moe/router/task_gate",
    "decoder/final_norm/scale",
  )
  params = {name: normal(4, 3) for name in names}
  arrays, notes = quantize(params, INT4)
  assert notes == {}
  assert arrays.keys() == params.keys()
  for name in names:
    assert arrays[name] is params[name]
  # Attention and vocabularies have eight bits always.
  _, notes = quantize({"attention/query": normal(4, 3, 2)}, INT4)
  assert notes == {"attention/query": {"bits": 8}}


def test_zeros_and_tiny_weights():
  weights = np.zeros((2, 40, 3), np.float32)
  weights[0, :, 1] = 1e-7
  weights[1, 3, 2] = 1e-9
  for quantization in Quantization:
    arrays, notes = quantize({"mlp/wi": weights}, quantization)
    found = dequantize(arrays, notes)["mlp/wi"]
    np.testing.assert_allclose(found, weights, atol=6e-8)
    assert not found[0, :, 0].any()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("quantization", Quantization)
def test_no_numbers(bad, quantization):
  weights = normal(4, 3)
  weights[1, 2] = bad
  with (
    np.errstate(invalid="ignore"),
    pytest.raises(
      TaskMoeError,
      match=r"mlp/wi cannot be rounded to [84] bits: some are not finite, .*"
      r" leave out --quantize\.",
    ),
  ):
    quantize({"mlp/wi": weights}, quantization)


def test_names():
  assert quantization_named("int8_int4") is Quantization.INT8_INT4
  with pytest.raises(
    TaskMoeError,
    match=r"unknown quantization 'int4': accepted are int8, int8_int4.*"
    r"Set --quantize\.",
  ):
    quantization_named("int4")

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.layers.attention import (
  Attention,
  KeysValues,
  Past,
  RelativePositionBias,
  relative_position_buckets,
)


def bucket(distance, bidirectional, num_buckets, max_distance):
  """T5's formula for one distance, in Python's exact integers.

  "Far" bucket i begins where (back / exact)^rest >= (max / exact)^i: no
  logarithm, so there is no rounding where a bucket begins.
  """
  first = 0
  if bidirectional:
    num_buckets //= 2
    if distance > 0:
      first = num_buckets
    back = abs(distance)
  else:
    back = max(-distance, 0)
  exact = num_buckets // 2
  if back < exact:
    return first + back
  rest, i = num_buckets - exact, 0
  while i < rest - 1 and (
    back**rest * exact ** (i + 1) >= exact**rest * max_distance ** (i + 1)
  ):
    i += 1
  return first + exact + i


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
  ("num_buckets", "max_distance"), [(32, 128), (16, 50), (6, 11)]
)
@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets(bidirectional, num_buckets, max_distance, compiled):
  distances = list(range(-200, 201))

  def buckets(distance):
    return relative_position_buckets(
      distance,
      bidirectional=bidirectional,
      num_buckets=num_buckets,
      max_distance=max_distance,
    )

  found = (jax.jit(buckets) if compiled else buckets)(jnp.array([distances]))
  expected = [
    bucket(distance, bidirectional, num_buckets, max_distance)
    for distance in distances
  ]
  np.testing.assert_array_equal(found, [expected])


def test_buckets_by_eye():
  """Eight buckets: 0 and 1 back, then 2-3, 4 and more; the same ahead."""
  found = relative_position_buckets(
    jnp.array([[-9, -4, -3, -2, -1, 0, 1, 2, 3, 4, 9]]),
    bidirectional=True,
    num_buckets=8,
    max_distance=8,
  )
  np.testing.assert_array_equal(found, [[3, 3, 2, 2, 1, 0, 5, 6, 6, 7, 7]])


def test_position_bias_is_looked_up_by_bucket_and_head():
  """Queries at 5 and 6, keys at 4, 5, 6, 7; ahead is bucket 0."""
  module = RelativePositionBias(
    num_heads=2, bidirectional=False, embed_dim=3, num_buckets=4, max_distance=9
  )
  table = jnp.array([[0.0, 100], [1, 101], [2, 102], [3, 103]])
  bias = module.apply(
    {"params": {"table": table}}, jnp.array([5, 6]), jnp.array([4, 5, 6, 7])
  )
  first = [[1, 0, 0, 0], [2, 1, 0, 0]]
  np.testing.assert_array_equal(bias, [first, np.array(first) + 100])


B, T, S, D, N, H = 2, 3, 5, 7, 2, 4


def attention(dropout_rate=0.0, dtype="float32"):
  return Attention(N, H, D, dropout_rate, jnp.dtype(dtype))


@pytest.fixture(scope="module")
def params():
  shapes = {"query": (D, N, H), "key": (D, N, H), "value": (D, N, H)}
  shapes["out"] = (N, H, D)
  return {
    name: jax.random.normal(jax.random.key(i), shape)
    for i, (name, shape) in enumerate(shapes.items())
  }


@pytest.fixture(scope="module")
def inputs():
  """What asks, what is asked, a mask and a bias; each query sees something."""
  rng = np.random.default_rng(1)
  x = rng.normal(size=(B, T, D)).astype(np.float32)
  source = rng.normal(size=(B, S, D)).astype(np.float32)
  mask = rng.random((B, T, S)) < 0.6
  mask[..., 2], mask[..., 1] = True, False
  bias = rng.normal(size=(N, T, S)).astype(np.float32)
  return x, source, mask, bias


def attend(module, params, x, source, mask, bias=None, **kwargs):
  variables = {"params": params}
  memory = module.apply(variables, jnp.asarray(source), method="keys_values")
  return module.apply(
    variables, jnp.asarray(x), memory, jnp.asarray(mask), bias, **kwargs
  )


def numpy_attention(params, x, source, mask, bias):
  y = np.zeros((B, T, D))
  p = {name: np.asarray(value, np.float64) for name, value in params.items()}
  for b in range(B):
    for n in range(N):
      keys, values = source[b] @ p["key"][:, n], source[b] @ p["value"][:, n]
      for t in range(T):
        query = x[b, t] @ p["query"][:, n]
        logits = keys @ query + (0 if bias is None else bias[n, t])
        weights = np.where(mask[b, t], np.exp(logits - logits.max()), 0)
        read = (weights / weights.sum()) @ values
        y[b, t] += read @ p["out"][n]
  return y


@pytest.mark.slow
@pytest.mark.parametrize("with_bias", [True, False])
def test_attention_is_that_of_numpy(params, inputs, with_bias):
  x, source, mask, bias = inputs
  bias = jnp.asarray(bias) if with_bias else None
  found = attend(attention(), params, x, source, mask, bias)
  expected = numpy_attention(params, x, source, mask, bias)
  # Sums of a few float32 products of order 10.
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_what_the_mask_hides_does_not_matter(params, inputs):
  x, source, mask, _ = inputs
  mask = mask.copy()
  mask[1, :, 4] = False
  other = source.copy()
  other[1, 4] += 3.0
  before = attend(attention(), params, x, source, mask)
  after = attend(attention(), params, x, other, mask)
  np.testing.assert_array_equal(before, after)


def test_dropout_is_for_training(params, inputs):
  x, source, mask, _ = inputs
  module = attention(dropout_rate=0.5)
  plain = attend(attention(), params, x, source, mask)
  np.testing.assert_array_equal(attend(module, params, x, source, mask), plain)
  rngs = {"dropout": jax.random.key(0)}
  dropped = attend(module, params, x, source, mask, train=True, rngs=rngs)
  assert not np.allclose(dropped, plain)


def test_compute_dtype(params, inputs):
  x, source, mask, _ = inputs
  found = attend(
    attention(dtype="bfloat16"),
    params,
    jnp.asarray(x, jnp.bfloat16),
    jnp.asarray(source, jnp.bfloat16),
    mask,
  )
  assert found.dtype == jnp.bfloat16


def test_update_writes_at_a_position():
  like = KeysValues(jnp.zeros((1, 7, 2, 3)), jnp.zeros((1, 7, 2, 3)))
  old = Past.empty(like, length=4, num_hypotheses=2)
  assert old.keys.shape == (1, 2, 4, 2, 3)
  keys = jnp.arange(1.0, 13.0).reshape(1, 2, 2, 3)  # [B, M, N, H]
  updated = old.update(KeysValues(keys, -keys), jnp.array(2))
  first_head = [[0, 0], [0, 0], [1, 7], [0, 0]]  # [T, M], their first numbers
  np.testing.assert_array_equal(updated.keys[0, 0, :, :, 0], first_head)
  second_head = [[0, 0], [0, 0], [-6, -12], [0, 0]]  # their last numbers
  np.testing.assert_array_equal(updated.values[0, 1, :, :, 2], second_head)


@pytest.mark.slow
def test_initial_scales():
  """As T5: queries make up for the missing division by sqrt(H)."""
  d, n, h = 61, 5, 17
  module = Attention(n, h, d, 0.0, jnp.dtype("float32"))
  x = jnp.zeros((1, 2, d))
  memory = KeysValues(jnp.zeros((1, 2, n, h)), jnp.zeros((1, 2, n, h)))
  mask = jnp.ones((1, 2, 2), bool)
  params = module.init(jax.random.key(0), x, memory, mask)["params"]
  expected = {
    "query": 1 / math.sqrt(d * h),
    "key": 1 / math.sqrt(d),
    "value": 1 / math.sqrt(d),
    "out": 1 / math.sqrt(n * h),
  }
  assert params.keys() == expected.keys()
  for name, weight in nn.unbox(params).items():
    # 5185 numbers each: 1 sigma is 1 %.
    np.testing.assert_allclose(weight.std(), expected[name], rtol=0.04)

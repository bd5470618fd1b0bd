import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from taskmoe_jax.layers.feed_forward import (
  Activation,
  FeedForward,
  FeedForwardWeights,
)

FLOAT32 = jnp.dtype("float32")
# D = 2, F = 3.
WI = jnp.array([[1.0, 0, -1], [2, 1, 0]])
WI_1 = jnp.array([[0.0, 1, 2], [1, 0, -1]])
WO = jnp.array([[1.0, -1], [10, 0], [0, 5]])
X = jnp.array([[[1.0, 2.0], [-3.0, 1.0]]])


def feed_forward(activation, params, **kwargs):
  module = FeedForward(3, activation, kwargs.pop("dropout", 0.0), FLOAT32)
  return module.apply({"params": params}, X, **kwargs)


def gelu(x):
  """The tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415)."""
  inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
  return 0.5 * x * (1 + math.tanh(inner))


def test_relu_by_hand():
  """Hidden (5, 2, -1) and (-1, 1, 3), of which ReLU keeps the positive."""
  y = feed_forward(Activation.RELU, {"wi": WI, "wo": WO}, train=False)
  np.testing.assert_allclose(y, [[[25, -5], [10, 15]]])


def test_gated_by_hand():
  """`wi` goes through GELU; the linear branch is (2, 1, 0) and (1, -3, -7)."""
  params = {"wi": WI, "wi_1": WI_1, "wo": WO}
  y = feed_forward(Activation.GATED_GELU, params, train=False)
  a, b, c = 2 * gelu(5), gelu(2), 0.0
  d, e, f = gelu(-1), -3 * gelu(1), -7 * gelu(3)
  expected = [[[a + 10 * b, -a + 5 * c], [d + 10 * e, -d + 5 * f]]]
  np.testing.assert_allclose(y, expected, rtol=1e-6)


def test_gated_keeps_its_inputs_only():
  """For the backward pass; gelu by itself would keep five arrays more."""
  hidden = jnp.ones((2, 3)), jnp.ones((2, 3))
  _, backward = jax.vjp(Activation.GATED_GELU, *hidden)
  assert sum(x.shape == (2, 3) for x in jax.tree.leaves(backward)) == 2


@pytest.mark.parametrize(
  ("activation", "names"),
  [
    (Activation.RELU, {"wi", "wo"}),
    (Activation.GATED_GELU, {"wi", "wi_1", "wo"}),
  ],
)
def test_parameters(activation, names):
  module = FeedForward(13, activation, 0.0, jnp.dtype("bfloat16"))
  params = jax.eval_shape(
    lambda: module.init(jax.random.key(0), jnp.zeros((2, 3, 7)), train=False)
  )["params"]
  assert params.keys() == names
  assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {
    np.dtype("float32")
  }
  shapes = {name: leaf.value.shape for name, leaf in params.items()}
  assert shapes.pop("wo") == (13, 7)
  assert set(shapes.values()) == {(7, 13)}
  assert params["wi"].names == ("embed", "mlp")
  assert params["wo"].names == ("mlp", "embed")


def test_initial_scales_are_of_the_fan_in():
  module = FeedForward(311, Activation.RELU, 0.0, FLOAT32)
  x = jnp.zeros((1, 1, 53))
  params = module.init(jax.random.key(0), x, train=False)["params"]
  params = nn.unbox(params)
  # 16483 numbers each: 1 sigma is 0.6 %.
  np.testing.assert_allclose(params["wi"].std(), 53**-0.5, rtol=0.02)
  np.testing.assert_allclose(params["wo"].std(), 311**-0.5, rtol=0.02)


def test_dropout_is_for_training():
  params = {"wi": WI, "wo": WO}
  plain = feed_forward(Activation.RELU, params, dropout=0.5, train=False)
  np.testing.assert_allclose(plain, [[[25, -5], [10, 15]]])
  rngs = {"dropout": jax.random.key(3)}
  dropped = feed_forward(
    Activation.RELU, params, dropout=0.5, train=True, rngs=rngs
  )
  # Each hidden unit is either gone or doubled.
  assert float(dropped[0, 0, 0]) in {0.0, 10.0, 40.0, 50.0}
  assert not np.array_equal(dropped, plain)


def test_take_picks_experts_off_the_leading_axis():
  weights = FeedForwardWeights(
    wi=(jnp.arange(4 * 2 * 3).reshape(4, 2, 3),),
    wo=jnp.arange(4 * 3 * 2).reshape(4, 3, 2),
  )
  taken = weights.take(jnp.array([[3, 0, 3], [1, 1, 2]]))
  assert taken.wi[0].shape == (2, 3, 2, 3)
  assert taken.wo.shape == (2, 3, 3, 2)
  np.testing.assert_array_equal(taken.wi[0][0, 2], weights.wi[0][3])
  np.testing.assert_array_equal(taken.wo[1, 2], weights.wo[2])

"""The grouped feed-forward of CPUs against a loop and a dense reference."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.layers.feed_forward import Activation, FeedForwardWeights
from taskmoe_jax.moe.grouped_cpu import grouped_feed_forward, tile_heights

N, E, D, F = 45, 5, 3, 7  # Tiles are 5, 10 or 20 rows high.
SIZES = [
  pytest.param([3, 0, 26, 7, 3], id="uneven, six rows of nobody"),
  pytest.param([1, 2, 29, 0, 13], id="last tile ends beyond the rows"),
  pytest.param([1, 21, 0, 23, 0], id="two of several tiles"),
  pytest.param([10, 5, 0, 20, 1], id="full tiles"),
  pytest.param([0, 0, 45, 0, 0], id="all in one"),
  pytest.param([0, 0, 0, 0, 0], id="nobody"),
]


def make(activation, seed=0):
  """Rows, a covector for them, and weights; all of order one."""
  rng = np.random.default_rng(seed)

  def normal(*shape):
    return jnp.asarray(rng.normal(size=shape), jnp.float32)

  wi = tuple(normal(E, D, F) for _ in range(activation.num_inputs))
  return normal(N, D), normal(N, D), FeedForwardWeights(wi, normal(E, F, D))


def experts_of(sizes):
  """Each row's expert; E for rows of nobody."""
  experts = np.repeat(np.arange(E), sizes)
  return np.pad(experts, (0, N - len(experts)), constant_values=E)


def loop(x, experts, weights, activation):
  """A row at a time, in float64."""
  x, weights = jax.tree.map(lambda a: np.asarray(a, np.float64), (x, weights))
  y = np.zeros_like(x)
  for row, expert in enumerate(experts):
    if expert == E:
      continue
    a = [x[row] @ wi[expert] for wi in weights.wi]
    if activation is Activation.RELU:
      hidden = np.maximum(a[0], 0)
    else:
      inner = np.sqrt(2 / np.pi) * (a[0] + 0.044715 * a[0] ** 3)
      hidden = 0.5 * a[0] * (1 + np.tanh(inner)) * a[1]
    y[row] = hidden @ weights.wo[expert]
  return y


def dense(x, experts, weights, activation):
  """Every expert on every row, and one of them kept: for its gradient."""
  hidden = activation(*(jnp.einsum("nd,edf->nef", x, w) for w in weights.wi))
  outs = jnp.einsum("nef,efd->ned", hidden, weights.wo)
  return jnp.einsum("ned,ne->nd", outs, jax.nn.one_hot(experts, E))


@functools.partial(jax.jit, static_argnums=4)
def run(x, covector, sizes, weights, activation):
  def product(x, weights):
    y = grouped_feed_forward(x, sizes, weights, activation)
    return jnp.vdot(covector, y), y

  gradient = jax.grad(product, argnums=(0, 1), has_aux=True)
  gradients, y = gradient(x, weights)
  return y, gradients


@functools.partial(jax.jit, static_argnums=4)
@functools.partial(jax.grad, argnums=(0, 3))
def reference(x, covector, experts, weights, activation):
  return jnp.vdot(covector, dense(x, experts, weights, activation))


@pytest.mark.slow
@pytest.mark.parametrize("activation", Activation)
@pytest.mark.parametrize("sizes", SIZES)
def test_against_loop_and_dense(sizes, activation):
  x, covector, weights = make(activation)
  experts = experts_of(sizes)
  # Of no account, and large enough to be seen where they should not be.
  x = jnp.where(jnp.asarray(experts)[:, None] == E, 1e3, x)
  y, gradients = run(x, covector, jnp.asarray(sizes), weights, activation)
  # Tolerances: sums of F = 7 float32 products of order 10, or of 45 of them.
  expected = loop(x, experts, weights, activation)
  np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
  expected = reference(x, covector, jnp.asarray(experts), weights, activation)
  for a, b in zip(
    jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True
  ):
    assert sum(sizes) == 0 or jnp.abs(b).max() > 0.1
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_bfloat16_rows_float32_weights():
  x, covector, weights = make(Activation.RELU)
  sizes = [3, 0, 26, 7, 3]
  experts = jnp.asarray(experts_of(sizes))
  y, gradients = run(
    x.astype(jnp.bfloat16),
    covector.astype(jnp.bfloat16),
    jnp.asarray(sizes),
    weights,
    Activation.RELU,
  )
  assert y.dtype == gradients[0].dtype == jnp.bfloat16
  expected = loop(x, experts, weights, Activation.RELU)
  # bfloat16 has 8 bits: each of three roundings is off by up to 0.4 %.
  scale = np.abs(expected).max()
  np.testing.assert_allclose(np.asarray(y, float), expected, atol=0.02 * scale)
  expected = reference(x, covector, experts, weights, Activation.RELU)
  for a, b in zip(
    jax.tree.leaves(gradients[1]), jax.tree.leaves(expected[1]), strict=True
  ):
    assert a.dtype == jnp.float32
    np.testing.assert_allclose(a, b, atol=0.02 * np.abs(b).max())


def test_tile_heights():
  assert tile_heights(N, E) == (5, 10, 20)
  about_mean = tuple(range(100, 170, 10))
  assert tile_heights(1024, 8) == (20, 40, 60, 80, *about_mean, 180, 200)
  assert tile_heights(3, 64) == (5,)
  for num_rows in (1, 100, 1000, 12345):
    for num_experts in (1, 7, 32):
      heights = tile_heights(num_rows, num_experts)
      assert len(heights) <= 15
      assert (
        heights[-1] >= num_rows or 2 * heights[-1] * num_experts >= 3 * num_rows
      )

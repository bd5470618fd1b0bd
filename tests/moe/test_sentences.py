"""Means over sentences, by hand."""

import jax.numpy as jnp
import numpy as np

from taskmoe_jax.moe.sentences import sentence_mean


def test_sentence_mean_of_rows():
  """Padding stands at the end of one row and in the midst of the other."""
  x = jnp.array([[[2.0, 10], [4, 20], [99, 99]], [[1, 5], [99, 99], [2, 8]]])
  segments = jnp.array([[1, 1, 0], [1, 0, 1]])
  mean = sentence_mean(x, segments, jnp.ones((2, 1), int), packed=False)
  np.testing.assert_array_equal(mean, [[3, 15], [1.5, 6.5]])


def test_sentence_mean_of_packed_rows():
  """Both rows have sentences 1 and 2; each sees its own alone."""
  x = jnp.array(
    [
      [[2.0, 10], [4, 20], [7, 70], [99, 99]],
      [[1, 5], [20, 40], [30, 60], [40, 80]],
    ]
  )
  of_x = jnp.array([[1, 1, 2, 0], [1, 2, 2, 2]])
  # Of another side, such as the target: longer, and sentence 3 has no source.
  asking = jnp.array([[2, 1, 1, 1, 0], [1, 1, 2, 3, 0]])
  mean = sentence_mean(x, of_x, asking, packed=True)
  a, b = [3.0, 15], [7.0, 70]
  c, d = [1.0, 5], [30.0, 60]
  nothing = [0.0, 0]
  np.testing.assert_array_equal(
    mean, [[b, a, a, a, nothing], [c, c, d, nothing, nothing]]
  )


def test_sentence_mean_of_nothing_is_zero():
  x, none = jnp.full((1, 2, 3), 7.0), jnp.zeros((1, 2), int)
  for packed in (False, True):
    assert not sentence_mean(x, none, none, packed=packed).any()

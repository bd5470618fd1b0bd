import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.losses import Objective, correct, cross_entropy

# B = 1, T = 3, V = 4; the second row of scores is not normalised.
PROBABILITIES = [
  [0.1, 0.2, 0.3, 0.4],
  [0.25, 0.25, 0.25, 0.25],
  [0.7, 0.1, 0.1, 0.1],
]
LOGITS = jnp.log(jnp.array([PROBABILITIES])) + jnp.array(
  [[[0.0] * 4, [7.0] * 4, [-2.0] * 4]]
)
TARGETS = jnp.array([[3, 1, 2]])


def test_by_hand():
  loss, log_partition = cross_entropy(LOGITS, TARGETS, label_smoothing=0.0)
  expected = [[-math.log(0.4), math.log(4), math.log(10)]]
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  np.testing.assert_allclose(log_partition, [[0.0, 7.0, -2.0]], atol=1e-6)


def test_label_smoothing_by_hand():
  """0.2 is spread over all four tokens, the target included."""
  loss, _ = cross_entropy(LOGITS, TARGETS, label_smoothing=0.2)
  first = -0.8 * math.log(0.4) - 0.05 * sum(
    math.log(p) for p in PROBABILITIES[0]
  )
  third = -0.8 * math.log(0.1) - 0.05 * (math.log(0.7) + 3 * math.log(0.1))
  np.testing.assert_allclose(loss, [[first, math.log(4), third]], rtol=1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.3])
def test_gradient_is_the_difference_of_distributions(label_smoothing):
  gradient = jax.grad(
    lambda logits: cross_entropy(
      logits, TARGETS, label_smoothing=label_smoothing
    )[0].sum()
  )(LOGITS)
  wanted = (1 - label_smoothing) * np.eye(4)[TARGETS] + label_smoothing / 4
  np.testing.assert_allclose(gradient, [PROBABILITIES] - wanted, atol=1e-6)


def test_huge_logits_do_not_overflow():
  loss, _ = cross_entropy(
    jnp.array([[[1e4, 0.0]]]), jnp.array([[1]]), label_smoothing=0.0
  )
  np.testing.assert_allclose(loss, [[1e4]])


def test_correct():
  np.testing.assert_array_equal(
    correct(LOGITS[:, ::2], jnp.array([[3, 0]])), [[1, 1]]
  )
  np.testing.assert_array_equal(
    correct(LOGITS[:, ::2], jnp.array([[3, 2]])), [[1, 0]]
  )


@pytest.mark.parametrize(
  ("label_smoothing", "z_loss_weight", "message"),
  [
    (1.5, 0.0, r"label_smoothing=1\.5 is outside \[0, 1\)\. Set LABEL_SM"),
    (0.1, -1.0, r"z_loss_weight=-1\.0 is not at least 0\. Set Objective\.z"),
  ],
)
def test_objectives_that_cannot_be(label_smoothing, z_loss_weight, message):
  with pytest.raises(TaskMoeError, match=message):
    Objective(label_smoothing=label_smoothing, z_loss_weight=z_loss_weight)

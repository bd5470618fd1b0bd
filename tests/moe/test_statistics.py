"""Losses and statistics by hand: drawn tables, with padding."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.gates import select_experts
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.routing import Routing, Softmax
from taskmoe_jax.moe.statistics import measure, measure_gates

# Three tokens and padding in one row, padding and one token in the other.
PROBABILITIES = [
  [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.01, 0.99]],
  [[0.01, 0.99], [0.01, 0.99], [0.7, 0.3], [0.01, 0.99]],
]
SEGMENTS = jnp.array([[1, 1, 1, 0], [0, 0, 1, 0]])
LOG_PARTITIONS = jnp.array([[[1.0], [2], [3], [9]], [[9], [9], [0], [9]]])
TASK_IDS = [2, 1]
NUM_TASKS = 3


def entropy(p):
  return -p * math.log(p) - (1 - p) * math.log(1 - p)


def of_scores(
  scores, num_selected=1, segments=SEGMENTS, kept=None, task_ids=TASK_IDS
):
  scores = jnp.asarray(scores, jnp.float32)
  gates, experts, _ = select_experts(scores, num_selected)
  routing = Routing(experts, gates, softmax=Softmax.of(scores))
  inputs = RouterInputs(jnp.array(task_ids), segments)
  return measure(routing, kept, inputs, NUM_TASKS, scores.shape[-1])


@pytest.mark.slow
def test_losses_and_means():
  """First choices fall 3 to 1; probabilities are 0.7 and 0.3 on average."""
  scores = jnp.log(jnp.array(PROBABILITIES)) + jnp.tile(
    LOG_PARTITIONS, (1, 1, 2)
  )
  found = of_scores(scores)
  balance = 2 * (0.75 * 0.7 + 0.25 * 0.3)
  assert found.balance_loss == pytest.approx(balance, rel=1e-5)
  assert found.z_loss == pytest.approx((1 + 4 + 9 + 0) / 4, rel=1e-5)
  np.testing.assert_allclose(found.load, [0.75, 0.25])
  mean = sum(map(entropy, (0.9, 0.8, 0.6, 0.7))) / 4
  assert found.entropy == pytest.approx(mean, rel=1e-5)
  assert found.dropped == 0


@pytest.mark.slow
def test_each_task_by_itself():
  """Row 0 is of task 2, row 1 of task 1, and none of task 0."""
  kept = jnp.array([[1, 0, 1, 0], [0, 0, 0, 0]], bool)[..., None]
  found = of_scores(jnp.log(jnp.array(PROBABILITIES)), kept=kept)
  np.testing.assert_array_equal(found.task_tokens, [0, 1, 3])
  np.testing.assert_allclose(
    found.task_load, [[0, 0], [1, 0], [2 / 3, 1 / 3]], rtol=1e-6
  )
  np.testing.assert_allclose(found.task_dropped, [0, 1, 1 / 3], rtol=1e-6)
  assert found.dropped == pytest.approx(2 / 4)
  entropies = [0, entropy(0.7), sum(map(entropy, (0.9, 0.8, 0.6))) / 3]
  np.testing.assert_allclose(found.task_entropy, entropies, rtol=1e-5)


def test_a_task_may_have_several_rows():
  found = of_scores(jnp.log(jnp.array(PROBABILITIES)), task_ids=[1, 1])
  np.testing.assert_array_equal(found.task_tokens, [0, 4, 0])
  np.testing.assert_allclose(found.task_load[1], found.load)
  np.testing.assert_allclose(found.task_entropy[1], found.entropy, rtol=1e-6)


@pytest.mark.slow
def test_load_counts_all_choices_and_balance_the_first():
  scores = jnp.log(
    jnp.array([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.6, 0.1, 0.3]]])
  )
  found = of_scores(scores, 2, jnp.ones((1, 3), int), task_ids=[0])
  # Choices 0 1, 1 2 and 0 2.
  np.testing.assert_allclose(found.load, [2 / 6, 2 / 6, 2 / 6])
  balance = 3 * (2 / 3 * 1.2 / 3 + 1 / 3 * 1.0 / 3)
  assert found.balance_loss == pytest.approx(balance, rel=1e-5)


def test_a_choice_not_made_is_no_load_and_cannot_be_dropped():
  """E = 2 stands for it; of five choices made one is dropped."""
  experts = jnp.array(
    [[[0, 1], [0, 2], [1, 2], [1, 0]], [[1, 0], [1, 2], [1, 2], [0, 1]]]
  )
  kept = jnp.array(
    [[[1, 0], [1, 0], [1, 0], [0, 0]], [[0, 0], [0, 0], [1, 0], [0, 0]]], bool
  )
  found = measure(
    Routing(experts, jnp.zeros(experts.shape)),
    kept,
    RouterInputs(jnp.array(TASK_IDS), SEGMENTS),
    NUM_TASKS,
    2,
  )
  np.testing.assert_allclose(found.load, [2 / 5, 3 / 5])
  assert found.dropped == pytest.approx(1 / 5)
  np.testing.assert_allclose(found.task_dropped, [0, 0, 1 / 4])
  np.testing.assert_allclose(found.task_load, [[0, 0], [0, 1], [0.5, 0.5]])


@pytest.mark.slow
@pytest.mark.parametrize("full", [False, True])
def test_a_row_counts_once_for_each_of_its_tokens(full):
  """Row 0 has three tokens; of its choices, `full` has two dropped."""
  kept = jnp.array([[1, 0, 0, 0], [1, 1, 1, 1]], bool)[..., None]
  found = of_scores(
    jnp.log(jnp.array([[0.9, 0.1], [0.3, 0.7]])), kept=kept if full else None
  )
  np.testing.assert_allclose(found.load, [0.75, 0.25])
  average = (3 * 0.9 + 0.3) / 4
  balance = 2 * (0.75 * average + 0.25 * (1 - average))
  assert found.balance_loss == pytest.approx(balance, rel=1e-5)
  mean = (3 * entropy(0.9) + entropy(0.3)) / 4
  assert found.entropy == pytest.approx(mean, rel=1e-5)
  assert found.dropped == pytest.approx(0.5 if full else 0)
  dropped = [0, 0, 2 / 3 if full else 0]
  np.testing.assert_allclose(found.task_dropped, dropped, rtol=1e-6)


@pytest.mark.slow
def test_extremes_of_the_balance_loss():
  segments = jnp.ones((1, 3), int)
  one = of_scores([[[50.0, 0, 0]] * 3], segments=segments, task_ids=[0])
  assert one.balance_loss == pytest.approx(3)
  even = of_scores(50.0 * np.eye(3)[None], segments=segments, task_ids=[0])
  assert even.balance_loss == pytest.approx(1)


@pytest.mark.slow
def test_nothing_but_padding():
  nothing = jnp.zeros((2, 3), int)
  found = of_scores(np.ones((2, 3, 5)), 2, nothing)
  for leaf in jax.tree.leaves(found):
    assert not leaf.any()
  assert not found.load.any()
  assert found.entropy == found.dropped == 0
  assert not found.task_load.any()


def test_gates_by_hand():
  """First choices .9 .8 .6 and .7; padding's 0.99 counts nowhere."""
  scores = jnp.log(jnp.array(PROBABILITIES))
  gates, experts, _ = select_experts(scores, 2)
  routing = Routing(experts, gates, softmax=Softmax.of(scores))
  inputs = RouterInputs(jnp.array(TASK_IDS), SEGMENTS)
  found = measure_gates(routing, inputs)
  assert found.tokens == 4
  np.testing.assert_allclose(found.activity, [0.75, 0.25])
  np.testing.assert_allclose(found.confidence, [0.8, 0.6], rtol=1e-6)


def test_gates_of_rows():
  """A decision for a row counts for each of its tokens: three and one."""
  scores = jnp.log(jnp.array([[0.2, 0.8, 0.0], [0.6, 0.4, 0.0]]))
  gates, experts, _ = select_experts(scores, 1)
  routing = Routing(experts, gates, softmax=Softmax.of(scores))
  found = measure_gates(routing, RouterInputs(jnp.array(TASK_IDS), SEGMENTS))
  np.testing.assert_allclose(found.first_choices, [1, 3, 0])
  np.testing.assert_allclose(found.confidence, [0.6, 0.8, 0], rtol=1e-6)

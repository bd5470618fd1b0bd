import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.moe.routing import (
  Router,
  RouterInputs,
  routing_from_scores,
  select_experts,
  sentence_mean,
  static_experts,
)


def scores_of(probabilities, log_partition=0.0):
  return jnp.log(jnp.array(probabilities)) + log_partition


@pytest.mark.parametrize(
  ("num_selected", "experts", "gates"),
  [
    (1, [[2], [0]], [[0.4], [0.7]]),  # the probability itself
    (2, [[2, 3], [0, 1]], [[4 / 7, 3 / 7], [7 / 9, 2 / 9]]),
    (
      3,
      [[2, 3, 1], [0, 1, 3]],
      [[4 / 9, 3 / 9, 2 / 9], [0.7 / 0.96, 0.2 / 0.96, 0.06 / 0.96]],
    ),
    (
      4,
      [[2, 3, 1, 0], [0, 1, 3, 2]],
      [[0.4, 0.3, 0.2, 0.1], [0.7, 0.2, 0.06, 0.04]],
    ),
  ],
)
def test_select_experts(num_selected, experts, gates):
  table = [[0.1, 0.2, 0.4, 0.3], [0.7, 0.2, 0.04, 0.06]]
  found = select_experts(scores_of(table, 5.0), num_selected)
  np.testing.assert_allclose(found[0], gates, rtol=1e-5)
  np.testing.assert_array_equal(found[1], experts)
  np.testing.assert_allclose(found[2], table, rtol=1e-5)


def test_the_worked_example_of_the_module():
  gates, experts, probabilities = select_experts(jnp.array([1.0, 0.0, 2.0]), 2)
  np.testing.assert_array_equal(experts, [2, 0])
  np.testing.assert_allclose(probabilities, [0.24, 0.09, 0.67], atol=0.006)
  np.testing.assert_allclose(gates, [0.73, 0.27], atol=0.005)


def test_ties_go_to_the_lower_index():
  scores = jnp.array([[2.0, 2, 2, 2], [1, 3, 0, 3], [0, 2, 1, 1]])
  _, experts, _ = select_experts(scores, 2)
  np.testing.assert_array_equal(experts, [[0, 1], [1, 3], [1, 2]])


@pytest.mark.parametrize("num_selected", [1, 2])
def test_the_gate_of_the_best_expert_can_learn(num_selected):
  def best_gate(scores):
    return select_experts(scores, num_selected)[0][0]

  gradient = jax.grad(best_gate)(jnp.array([0.5, 1.5, 1.0]))
  assert gradient[1] > 0.1
  # Of the experts not chosen none has a say, once gates are renormalised.
  assert gradient[2] < -0.1
  assert (gradient[0] == pytest.approx(0, abs=1e-7)) == (num_selected == 2)


@pytest.mark.parametrize(
  ("tasks", "experts", "selected", "table"),
  [
    (3, 7, 2, [[0, 1], [2, 3], [4, 5]]),
    (4, 5, 2, [[0, 1], [2, 3], [4, 0], [1, 2]]),
    (3, 2, 1, [[0], [1], [0]]),
    (2, 4, 3, [[0, 1, 2], [3, 0, 1]]),
  ],
)
def test_static_experts(tasks, experts, selected, table):
  np.testing.assert_array_equal(static_experts(tasks, experts, selected), table)


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


# Three tokens and padding in one row, padding and one token in the other.
PROBABILITIES = [
  [[0.9, 0.1], [0.8, 0.2], [0.4, 0.6], [0.01, 0.99]],
  [[0.01, 0.99], [0.01, 0.99], [0.7, 0.3], [0.01, 0.99]],
]
VALID = jnp.array([[1, 1, 1, 0], [0, 0, 1, 0]], bool)
LOG_PARTITIONS = jnp.array([[[1.0], [2], [3], [9]], [[9], [9], [0], [9]]])


def entropy(p):
  return -p * math.log(p) - (1 - p) * math.log(1 - p)


def test_losses_and_statistics_by_hand():
  """First choices fall 3 to 1; probabilities are 0.7 and 0.3 on average."""
  scores = jnp.log(jnp.array(PROBABILITIES)) + jnp.tile(
    LOG_PARTITIONS, (1, 1, 2)
  )
  routing = routing_from_scores(scores, 1, VALID)
  balance = 2 * (0.75 * 0.7 + 0.25 * 0.3)
  assert routing.balance_loss == pytest.approx(balance, rel=1e-5)
  assert routing.z_loss == pytest.approx((1 + 4 + 9 + 0) / 4, rel=1e-5)
  np.testing.assert_allclose(routing.load, [0.75, 0.25])
  mean = sum(map(entropy, (0.9, 0.8, 0.6, 0.7))) / 4
  assert routing.entropy == pytest.approx(mean, rel=1e-5)
  assert not routing.by_row


def test_load_counts_all_choices_and_balance_the_first():
  scores = scores_of([[[0.5, 0.3, 0.2], [0.1, 0.6, 0.3], [0.6, 0.1, 0.3]]])
  routing = routing_from_scores(scores, 2, jnp.ones((1, 3), bool))
  # Choices 0 1, 1 2 and 0 2.
  np.testing.assert_allclose(routing.load, [2 / 6, 2 / 6, 2 / 6])
  balance = 3 * (2 / 3 * 1.2 / 3 + 1 / 3 * 1.0 / 3)
  assert routing.balance_loss == pytest.approx(balance, rel=1e-5)


def test_a_row_counts_once_for_each_of_its_tokens():
  scores = scores_of([[0.9, 0.1], [0.3, 0.7]])
  routing = routing_from_scores(scores, 1, VALID)
  np.testing.assert_allclose(routing.load, [0.75, 0.25])
  average = (3 * 0.9 + 0.3) / 4
  balance = 2 * (0.75 * average + 0.25 * (1 - average))
  assert routing.balance_loss == pytest.approx(balance, rel=1e-5)
  assert routing.by_row


def test_extremes_of_the_balance_loss():
  valid = jnp.ones((1, 3), bool)
  one = routing_from_scores(jnp.array([[[50.0, 0, 0]] * 3]), 1, valid)
  assert one.balance_loss == pytest.approx(3)
  even = routing_from_scores(50.0 * jnp.eye(3)[None], 1, valid)
  assert even.balance_loss == pytest.approx(1)


def test_nothing_but_padding():
  routing = routing_from_scores(jnp.ones((2, 3, 5)), 2, jnp.zeros((2, 3), bool))
  assert routing.balance_loss == routing.z_loss == routing.entropy == 0
  assert not routing.load.any()


# D = 2, E = 3: the first feature asks for expert 0, the second for 2.
TABLE = jnp.array([[3.0, 1, 0], [0, 1, 3]])
TASK_IDS = jnp.array([2, 0])
SEGMENTS = jnp.array([[1, 1, 2, 2], [1, 1, 1, 0]])
X = jnp.array(
  [[[1.0, 0], [1, 0], [0, 1], [0, 1]], [[0, 1], [2, 0], [1, 0], [0, 9]]]
)


def route(granularity, num_selected=1, **inputs):
  config = MoeConfig(
    granularity=granularity,
    num_experts=3,
    num_selected=num_selected,
    expert_mlp_dim=7,
    dispatch="auto",
    capacity_factor=None,
    group_size=64,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  params = {} if granularity == "static" else {"table": TABLE}
  return Router(config, num_tasks=4).apply(
    {"params": params}, X, RouterInputs(TASK_IDS, SEGMENTS, **inputs)
  )


def test_by_token():
  routing = route("token")
  experts = [[0, 0, 2, 2], [2, 0, 0, 2]]
  np.testing.assert_array_equal(routing.experts[..., 0], experts)
  np.testing.assert_allclose(routing.load, [4 / 7, 0, 3 / 7])


def test_by_sentence_of_rows():
  """Means (1/2, 1/2), a tie of 0 and 2, and (1, 1/3)."""
  routing = route("sentence", num_selected=2)
  np.testing.assert_array_equal(routing.experts, [[0, 2], [0, 1]])
  np.testing.assert_allclose(routing.gates[0], [0.5, 0.5])


def test_by_sentence_of_packed_rows():
  routing = route("sentence", packed=True)
  experts = [[0, 0, 2, 2], [0, 0, 0, 0]]
  np.testing.assert_array_equal(routing.experts[..., 0], experts)
  gates = routing.gates[..., 0]
  np.testing.assert_array_equal(gates[0], gates[0, ::-1])


def test_by_sentence_of_the_encoder():
  """In a decoder the tokens at hand have no say."""
  routing = route("sentence", sentence=jnp.array([[0.0, 1], [0, 1]]))
  np.testing.assert_array_equal(routing.experts, [[2], [2]])


def test_by_task():
  routing = route("task", task_vectors=jnp.array([[0.0, 1], [1, 0]]))
  np.testing.assert_array_equal(routing.experts, [[2], [0]])
  probability = math.exp(3) / (math.exp(3) + math.e + 1)
  np.testing.assert_allclose(routing.gates, [[probability]] * 2, rtol=1e-6)


def test_static():
  """Tasks 0, 1, 2, 3 get experts 01, 20, 12, 01."""
  routing = route("static", num_selected=2)
  np.testing.assert_array_equal(routing.experts, [[1, 2], [0, 1]])
  np.testing.assert_array_equal(routing.gates, [[0.5, 0.5]] * 2)
  assert routing.balance_loss == routing.z_loss == 0
  assert routing.entropy == pytest.approx(math.log(2))
  np.testing.assert_allclose(routing.load, [3 / 14, 7 / 14, 4 / 14])


def test_scores_are_float32_whatever_the_tokens_are():
  config = MoeConfig(
    granularity="token",
    num_experts=2,
    num_selected=1,
    expert_mlp_dim=7,
    dispatch="auto",
    capacity_factor=None,
    group_size=64,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  # In bfloat16 both scores would be 1.
  table = jnp.array([[1.0, 1.001]])
  routing = Router(config, num_tasks=1).apply(
    {"params": {"table": table}},
    jnp.ones((1, 1, 1), jnp.bfloat16),
    RouterInputs(jnp.array([0]), jnp.array([[1]])),
  )
  assert routing.experts[0, 0, 0] == 1
  assert routing.gates.dtype == jnp.float32

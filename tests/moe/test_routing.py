"""Each granularity by hand: what it looks at, and whom it agrees with."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.router_inputs import RouterInputs, sentence_mean
from taskmoe_jax.moe.routing import Router
from taskmoe_jax.moe.statistics import measure

# D = 2, E = 3: the first feature asks for expert 0, the second for 2.
TABLE = jnp.array([[3.0, 1, 0], [0, 1, 3]])
TASK_IDS = jnp.array([2, 0])
SEGMENTS = jnp.array([[1, 1, 2, 2], [1, 1, 1, 0]])
X = jnp.array(
  [[[1.0, 0], [1, 0], [0, 1], [0, 1]], [[0, 1], [2, 0], [1, 0], [0, 9]]]
)
NUM_TASKS = 4


@pytest.fixture
def route(moe_config):
  """Routes X; returns the routing and its statistics."""

  def route(granularity, num_selected=1, params=None, moe=(), **inputs):
    config = moe_config(
      **{
        "granularity": granularity,
        "num_experts": 3,
        "num_selected": num_selected,
        "num_candidates": 2,
        **dict(moe),
      }
    )
    if params is None:
      params = {"table": TABLE} if config.granularity.has_gate else {}
    inputs = RouterInputs(TASK_IDS, SEGMENTS, **inputs)
    routing = Router(config, NUM_TASKS).apply(
      {"params": params}, X, inputs, train=False
    )
    return routing, measure(routing, None, inputs, NUM_TASKS, 3)

  return route


@pytest.mark.slow
def test_by_token(route):
  routing, statistics = route("token")
  experts = [[0, 0, 2, 2], [2, 0, 0, 2]]
  np.testing.assert_array_equal(routing.experts[..., 0], experts)
  np.testing.assert_allclose(statistics.load, [4 / 7, 0, 3 / 7])
  assert not routing.by_row


@pytest.mark.slow
def test_by_sentence_of_rows(route):
  """Means (1/2, 1/2), a tie of 0 and 2, and (1, 1/3)."""
  routing, _ = route("sentence", num_selected=2)
  np.testing.assert_array_equal(routing.experts, [[0, 2], [0, 1]])
  np.testing.assert_allclose(routing.gates[0], [0.5, 0.5])
  assert routing.by_row


@pytest.mark.slow
def test_by_sentence_of_packed_rows(route):
  routing, _ = route("sentence", packed=True)
  experts = [[0, 0, 2, 2], [0, 0, 0, 0]]
  np.testing.assert_array_equal(routing.experts[..., 0], experts)
  gates = routing.gates[..., 0]
  np.testing.assert_array_equal(gates[0], gates[0, ::-1])


@pytest.mark.slow
def test_by_sentence_of_the_encoder(route):
  """In a decoder the tokens at hand have no say."""
  routing, _ = route("sentence", sentence=jnp.array([[0.0, 1], [0, 1]]))
  np.testing.assert_array_equal(routing.experts, [[2], [2]])


def test_by_task(route):
  routing, _ = route("task", task_vectors=jnp.array([[0.0, 1], [1, 0]]))
  np.testing.assert_array_equal(routing.experts, [[2], [0]])
  probability = math.exp(3) / (math.exp(3) + math.e + 1)
  np.testing.assert_allclose(routing.gates, [[probability]] * 2, rtol=1e-6)


def test_static(route):
  """Tasks 0, 1, 2, 3 get experts 01, 20, 12, 01."""
  routing, statistics = route("static", num_selected=2)
  np.testing.assert_array_equal(routing.experts, [[1, 2], [0, 1]])
  np.testing.assert_array_equal(routing.gates, [[0.5, 0.5]] * 2)
  assert statistics.balance_loss == statistics.z_loss == 0
  assert statistics.entropy == pytest.approx(math.log(2))
  np.testing.assert_allclose(statistics.load, [3 / 14, 7 / 14, 4 / 14])


def test_by_word(route):
  """Token v gets experts 2v and 2v + 1 modulo 3."""
  tokens = jnp.array([[5, 2, 5, 0], [1, 7, 4, 0]])
  routing, statistics = route(
    "word", num_selected=2, moe={"word_table": "dealt"}, token_ids=tokens
  )
  a, b, c = [0, 1], [2, 0], [1, 2]
  np.testing.assert_array_equal(routing.experts, [[c, c, c, a], [b, b, b, a]])
  np.testing.assert_array_equal(routing.gates, np.full((2, 4, 2), 0.5))
  assert statistics.balance_loss == statistics.z_loss == 0
  assert statistics.entropy == pytest.approx(math.log(2))
  # The last token is padding.
  np.testing.assert_allclose(statistics.load, [4 / 14, 4 / 14, 6 / 14])


# Of a task vector: the first feature likes experts 1 and 2, the second 0 and 1.
TASK_GATE = jnp.array([[-5.0, 0.5, 0], [0.25, 0, -5]])


def test_by_task_then_token(route):
  """Row 0 has candidates 1 and 2, row 1 has 0 and 1.

  Scores of row 0: tokens (1, 0) 1.5 and 0, tokens (0, 1) 1.5 and 3; of row 1:
  (0, 1) 0.25 and 1, (2, 0) 6.25 and 2, (1, 0) 3.25 and 1.
  """
  routing, statistics = route(
    "task_then_token",
    num_selected=2,
    params={"table": TABLE, "task_gate": TASK_GATE},
    task_vectors=jnp.array([[1.0, 0], [0, 1]]),
  )
  experts = [[[1, 2], [1, 2], [2, 1], [2, 1]], [[1, 0], [0, 1], [0, 1]]]
  np.testing.assert_array_equal(routing.experts[0], experts[0])
  np.testing.assert_array_equal(routing.experts[1, :3], experts[1])

  def first(best, other):
    return 1 / (1 + math.exp(other - best))

  gates = [first(1.5, 0)] * 2 + [first(3, 1.5)] * 2
  np.testing.assert_allclose(routing.gates[0, :, 0], gates, rtol=1e-5)
  gates = [first(1, 0.25), first(6.25, 2), first(3.25, 1)]
  np.testing.assert_allclose(routing.gates[1, :3, 0], gates, rtol=1e-5)
  # What is no candidate has no part in anything.
  assert routing.softmax.probabilities[0, :, 0].max() == 0
  assert routing.softmax.probabilities[1, :, 2].max() == 0
  z = np.logaddexp([1.5, 1.5, 1.5, 0.25, 6.25, 3.25], [0, 0, 3, 1, 2, 1])
  z = np.append(z, np.logaddexp(1.5, 3))
  assert statistics.z_loss == pytest.approx(np.mean(z**2), rel=1e-5)
  assert statistics.entropy < math.log(2)


@pytest.mark.parametrize("balance_bias_rate", [0.0, 0.5])
def test_a_bias_has_a_say_in_the_choice_alone(route, balance_bias_rate):
  """Of -1 for expert 0: probability 0.84 is less than 0.11 + 1 - 1 + 0."""
  moe = {"balance_bias_rate": balance_bias_rate}
  params = {"table": TABLE}
  if balance_bias_rate:
    params["balance_bias"] = jnp.array([-1.0, 0, 0])
  routing, _ = route("token", params=params, moe=moe)
  assert routing.experts[0, 0, 0] == (1 if balance_bias_rate else 0)
  exps = np.exp([3, 1, 0])
  probability = exps[routing.experts[0, 0, 0]] / exps.sum()
  np.testing.assert_allclose(routing.gates[0, 0], [probability], rtol=1e-6)


def test_scores_are_float32_whatever_the_tokens_are(moe_config):
  config = moe_config(num_experts=2, num_selected=1)
  # In bfloat16 both scores would be 1.
  table = jnp.array([[1.0, 1.001]])
  routing = Router(config, num_tasks=1).apply(
    {"params": {"table": table}},
    jnp.ones((1, 1, 1), jnp.bfloat16),
    RouterInputs(jnp.array([0]), jnp.array([[1]])),
    train=False,
  )
  assert routing.experts[0, 0, 0] == 1
  assert routing.gates.dtype == jnp.float32


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

"""From scores to experts and gates, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.gates import (
  among_candidates,
  balanced_bias,
  candidates,
  drop_at_random,
  jittered,
  masked,
  pick,
  renormalized,
  select_experts,
  top_k,
  without_padding,
)
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.routing import Router
from taskmoe_jax.moe.statistics import measure


def scores_of(probabilities, log_partition=0.0):
  return jnp.log(jnp.array(probabilities)) + log_partition


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("num_selected", [1, 2])
def test_the_gate_of_the_best_expert_can_learn(num_selected):
  def best_gate(scores):
    return select_experts(scores, num_selected)[0][0]

  gradient = jax.grad(best_gate)(jnp.array([0.5, 1.5, 1.0]))
  assert gradient[1] > 0.1
  # Of the experts not chosen none has a say, once gates are renormalised.
  assert gradient[2] < -0.1
  assert (gradient[0] == pytest.approx(0, abs=1e-7)) == (num_selected == 2)


def test_a_bias_moves_choices_and_not_gates():
  """Expert 1 would be third; with 0.3 more it is first, and counts for 0.2."""
  scores = scores_of([0.45, 0.2, 0.35])
  bias = jnp.array([0.0, 0.3, 0.0])
  gates, experts, _ = select_experts(scores, 2, bias=bias)
  np.testing.assert_array_equal(experts, [1, 0])
  np.testing.assert_allclose(gates, [0.2 / 0.65, 0.45 / 0.65], rtol=1e-5)
  gradient = jax.grad(lambda b: select_experts(scores, 2, bias=b)[0][0])(bias)
  assert not gradient.any()


def test_a_probability_too_small_for_float32_still_has_a_rank():
  """e^-200 is 0; which of two such experts is better, scores still say."""
  scores = jnp.array([[0.0, -400.0, -200.0]])
  gates, experts, _ = select_experts(scores, 3)
  np.testing.assert_array_equal(experts, [[0, 2, 1]])
  np.testing.assert_array_equal(gates, [[1, 0, 0]])


N = 40_000


def within_5_sigma(count, p):
  assert abs(count - N * p) <= 5 * np.sqrt(N * p * (1 - p)), (count / N, p)


@pytest.mark.slow
def test_sampling_draws_one_expert_after_the_other():
  """The first is the best; the second of the rest; the third of what is left.

  Of 0.5, 0.3, 0.15 and 0.05, expert 1 is second with 0.3 / 0.5, and expert 3
  third after it with 0.05 / 0.2.
  """
  p = [0.5, 0.3, 0.15, 0.05]
  scores = jnp.tile(scores_of([p]), (N, 1))
  gumbel = jax.random.gumbel(jax.random.key(0), scores.shape)
  gates, experts, _ = select_experts(scores, 3, gumbel=gumbel)
  assert (experts[:, 0] == 0).all()
  for second in (1, 2, 3):
    drawn = experts[:, 1] == second
    within_5_sigma(drawn.sum(), p[second] / 0.5)
    for third in {1, 2, 3} - {second}:
      both = (drawn & (experts[:, 2] == third)).sum()
      left = 0.5 - p[second]
      within_5_sigma(both, p[second] / 0.5 * p[third] / left)
  chosen = np.array(p)[experts]
  np.testing.assert_allclose(
    gates, chosen / chosen.sum(1, keepdims=True), rtol=1e-5
  )


@pytest.mark.slow
@pytest.mark.parametrize(
  ("threshold", "kept"), [(0.5, (0.6, 0.2)), (0.25, (1, 0.4)), (0.1, (1, 1))]
)
def test_random_keeps_a_choice_by_its_gate(threshold, kept):
  """Gates 0.6, 0.3 and 0.1; each draw is of its own."""
  gates = jnp.tile(jnp.array([[0.6, 0.3, 0.1]]), (N, 1))
  experts = jnp.tile(jnp.array([[3, 0, 2]]), (N, 1))
  uniform = jax.random.uniform(jax.random.key(1), (N, 2))
  left, made = drop_at_random(gates, experts, uniform, threshold, 5)
  assert (made[:, 0] == 3).all()
  for place, p in enumerate(kept, start=1):
    within_5_sigma((made[:, place] != 5).sum(), p)
  within_5_sigma((made[:, 1:] != 5).all(1).sum(), kept[0] * kept[1])
  # A choice is made as it was, or not at all.
  np.testing.assert_array_equal(made, jnp.where(made == 5, 5, experts))
  np.testing.assert_array_equal(left, jnp.where(made == 5, 0, gates))


def test_random_by_hand():
  """A gate of 0.2 against a threshold of 0.4: below a half it is made."""
  gates, experts = drop_at_random(
    jnp.array([[0.8, 0.2], [0.8, 0.2]]),
    jnp.array([[1, 0], [1, 0]]),
    jnp.array([[0.49], [0.51]]),
    0.4,
    2,
  )
  np.testing.assert_allclose(gates, [[0.8, 0.2], [0.8, 0]])
  np.testing.assert_array_equal(experts, [[1, 0], [1, 2]])
  np.testing.assert_allclose(renormalized(gates), [[0.8, 0.2], [1, 0]])


def test_renormalised_gates_of_nothing():
  found = renormalized(jnp.array([[0.3, 0.1], [0, 0]]), axis=-1)
  np.testing.assert_allclose(found, [[0.75, 0.25], [0, 0]])


@pytest.mark.slow
def test_jitter_has_bounds():
  x = jnp.array([[2.0, -3.0, 0.0]] * N)
  uniform = jax.random.uniform(jax.random.key(2), x.shape)
  found = jittered(x, uniform, 0.1)
  np.testing.assert_allclose(found.min(0), [1.8, -3.3, 0], atol=1e-3)
  np.testing.assert_allclose(found.max(0), [2.2, -2.7, 0], atol=1e-3)
  # A uniform number between -1 and 1 has a variance of a third.
  deviation = 0.1 * np.array([2, 3, 0]) / np.sqrt(3 * N)
  assert (np.abs(found.mean(0) - x[0]) <= 5 * deviation).all()


def test_masked_gates_are_right_on_average():
  gates = jnp.array([[[0.7, 0.3]]])
  uniform = jax.random.uniform(jax.random.key(3), (1, N, 2))
  found = masked(gates, uniform, 0.2)
  lost = found == 0
  for k in (0, 1):
    within_5_sigma(lost[0, :, k].sum(), 0.2)
  within_5_sigma(lost.all(-1).sum(), 0.04)
  np.testing.assert_allclose(
    jnp.where(lost, 0, found),
    jnp.where(lost, 0, jnp.tile(gates / 0.8, (1, N, 1))),
    rtol=1e-6,
  )
  # So its mean is the gate: the kept share is within 5 sigma of 0.8.
  sigma = np.array([0.7, 0.3]) / 0.8 * np.sqrt(0.8 * 0.2 / N)
  assert (np.abs(found.mean(1)[0] - gates[0, 0]) < 5 * sigma).all()


def test_candidates():
  """Ties go to the lower index here too."""
  scores = jnp.array([[0.5, 2, 0.5, 1], [3, 0, 0, 0]])
  np.testing.assert_array_equal(candidates(scores, 3), [[1, 3, 0], [0, 1, 2]])


@pytest.mark.slow
def test_scores_among_candidates():
  scores = jnp.array([[[1.0, 2, 3], [3, 2, 9]], [[1, 2, 3], [4, 5, 6]]])
  of_task = jnp.array([[0.5, 0.25, -7], [-1, 0, 1]])
  found = among_candidates(scores, of_task, 2)
  np.testing.assert_array_equal(found[0, :, :2], [[1.5, 2.25], [3.5, 2.25]])
  np.testing.assert_array_equal(found[1, :, 1:], [[2, 4], [5, 7]])
  probabilities = jax.nn.softmax(found)
  assert (probabilities[0, :, 2] == 0).all()
  assert (probabilities[1, :, 0] == 0).all()
  assert np.isfinite(found).all()


@pytest.mark.slow
def test_a_task_learns_by_the_scores_of_its_candidates():
  def best_gate(of_task):
    scores = among_candidates(jnp.array([[[1.0, 2, 3]]]), of_task, 2)
    return select_experts(scores, 1)[0].sum()

  gradient = jax.grad(best_gate)(jnp.array([[0.5, 1.5, -7]]))
  assert gradient[0, 1] > 0.1
  assert gradient[0, 0] == pytest.approx(-gradient[0, 1])
  assert gradient[0, 2] == 0


def test_padding_has_no_probability():
  """Though its score is the highest, and K is the number of experts."""
  scores = without_padding(
    jnp.array([[1.0, 9.0, 2.0]]), jnp.array([1.0, 0.0, 1.0])
  )
  gates, experts, probabilities = select_experts(scores, 2)
  assert experts.tolist() == [[2, 0]]
  share = 1 / (1 + math.exp(-1))
  np.testing.assert_allclose(gates, [[share, 1 - share]], rtol=1e-6)
  np.testing.assert_allclose(probabilities, [[1 - share, 0, share]], rtol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 7])
def test_the_largest_come_first(k):
  values = np.random.default_rng(k).normal(size=(3, 4, 7)).astype(np.float32)
  expected = np.argsort(-values, axis=-1)[..., :k]
  np.testing.assert_array_equal(top_k(jnp.asarray(values), k), expected)


@pytest.mark.parametrize("k", [2, 5])
def test_top_k_ties_go_to_the_lower_index(k):
  """Also those of the infinities with which experts are ruled out or in."""
  values = jnp.array(
    [[1.0, 3, 3, 1, -jnp.inf, -jnp.inf], [jnp.inf, 0, 0, 0, 0, 0]]
  )
  expected = np.array([[1, 2, 0, 3, 4], [0, 1, 2, 3, 4]])[:, :k]
  np.testing.assert_array_equal(top_k(values, k), expected)


def test_picking_and_its_gradient():
  values = jnp.array([[0.5, 0.25, 2.0], [4.0, 8.0, 16.0]])
  indices = jnp.array([[2, 0], [1, 1]])
  picked, pull = jax.vjp(lambda values: pick(values, indices), values)
  np.testing.assert_array_equal(picked, [[2.0, 0.5], [8.0, 8.0]])
  (gradient,) = pull(jnp.array([[1.0, 3.0], [5.0, 7.0]]))
  np.testing.assert_array_equal(gradient, [[3, 0, 1], [0, 12, 0]])


def test_by_hand():
  """Two layers; the mean load of four experts is a quarter."""
  bias = jnp.array([[0.5, 0, 0, -0.5], [0, 0, 0, 0]])
  load = jnp.array([[0.5, 0.25, 0.0, 0.25], [0.25, 0.25, 0.25, 0.25]])
  np.testing.assert_allclose(
    balanced_bias(bias, load, 0.125),
    [[0.375, 0, 0.125, -0.5], [0, 0, 0, 0]],
  )


def test_a_step_of_padding_moves_nothing():
  bias = jnp.array([0.5, -0.25, 0])
  np.testing.assert_array_equal(balanced_bias(bias, jnp.zeros(3), 0.1), bias)


@pytest.mark.parametrize("num_selected", [1, 3])
def test_loads_come_together(moe_config, num_selected):
  """Tokens that like a few experts, which nobody teaches; only the bias moves.

  500 tokens, seven experts: each should get a seventh.
  """
  rate = 0.001
  config = moe_config(num_selected=num_selected, balance_bias_rate=rate)
  router = Router(config, 1)
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.normal(1.0, 1.0, (5, 100, 3)), jnp.float32)
  table = jnp.asarray(0.3 * rng.normal(size=(3, 7)), jnp.float32)
  inputs = RouterInputs(jnp.zeros(5, int), jnp.ones((5, 100), int))

  def step(bias, _):
    routing = router.apply(
      {"params": {"table": table, "balance_bias": bias}},
      x,
      inputs,
      train=True,
    )
    load = measure(routing, None, inputs, 1, 7).load
    return balanced_bias(bias, load, rate), load

  run = jax.jit(lambda bias: jax.lax.scan(step, bias, None, 1000))
  _, loads = run(jnp.zeros(7))
  spread = np.asarray(loads.max(1) - loads.min(1))
  assert spread[0] > 0.25 / num_selected
  # In the end each bias goes to and fro by a step or two of the rate.
  assert spread[-20:].max() < 0.15 * spread[0]

"""Noise of training: what shares a draw, and that evaluation has none."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.moe.routing import Router

pytestmark = pytest.mark.slow

B, L, D, E, R = 4, 6, 5, 7, 3
# Rows 0 and 3 are of one task. Packed, rows hold three, one, two sentences.
TASK_IDS = jnp.array([1, 0, 2, 1])
PACKED = jnp.array(
  [
    [1, 1, 2, 2, 2, 3],
    [1, 1, 1, 1, 0, 0],
    [1, 2, 2, 2, 0, 0],
    [1, 2, 3, 3, 0, 0],
  ]
)
# Optimising takes longer than it saves.
UNOPTIMIZED = {
  "xla_backend_optimization_level": 0,
  "xla_llvm_disable_expensive_passes": True,
}
RANDOM = {"second_expert_policy": "random", "second_expert_threshold": 1.0}
SAMPLING = {"second_expert_policy": "sampling"}
JITTER = {"jitter": 0.9}


@pytest.fixture
def route(moe_config):
  """Routes equal tokens and tasks, so that only noise makes a difference.

  With one key, or with several at once: then all results have one more axis.
  """

  def route(
    granularity, noise=(), *, keys=None, packed=False, train=True, **moe
  ):
    config = moe_config(
      **{"granularity": granularity, "num_selected": 3, **dict(noise), **moe}
    )
    router = Router(config, R)
    token = jnp.array([0.9, -0.4, 0.3, 1.1, 0.5])
    inputs = RouterInputs(
      TASK_IDS,
      PACKED if packed else (PACKED > 0).astype(int),
      token_ids=jnp.full((B, L), 11),
      task_vectors=jnp.tile(token, (B, 1)),
      packed=packed,
    )
    x = jnp.tile(token, (B, L, 1))
    rng = np.random.default_rng(0)
    names = ["table"] if config.granularity.has_gate else []
    names += ["task_gate"] * (granularity == "task_then_token")
    params = {
      name: jnp.asarray(0.3 * rng.normal(size=(D, E)), jnp.float32)
      for name in names
    }

    def apply(key):
      rngs = {"dropout": jax.random.key(key)}
      return router.apply({"params": params}, x, inputs, train=train, rngs=rngs)

    apply = apply if keys is None else jax.vmap(apply)
    return jax.jit(apply, compiler_options=UNOPTIMIZED)(
      jnp.asarray(0 if keys is None else keys)
    )

  return route


def decisions(routing):
  """What each token gets, over all keys, as one vector; none for padding."""
  experts, gates = (
    np.broadcast_to(
      a[:, :, None] if a.ndim == 3 else a, (*a.shape[:2], L, a.shape[-1])
    )
    for a in map(np.asarray, (routing.experts, routing.gates))
  )
  both = np.concatenate([experts, gates], axis=-1)  # [keys, B, L, 2K]
  return {(b, t): both[:, b, t] for b, t in np.argwhere(PACKED > 0).tolist()}


@pytest.mark.slow
@pytest.mark.parametrize(
  ("granularity", "packed", "decided_for"),
  [
    ("token", True, lambda b, t: (b, t)),
    ("task_then_token", False, lambda b, t: (b, t)),
    ("sentence", False, lambda b, t: b),
    ("sentence", True, lambda b, t: (b, int(PACKED[b, t]))),
    ("task", True, lambda b, t: int(TASK_IDS[b])),
  ],
)
@pytest.mark.parametrize("noise", [RANDOM, SAMPLING, JITTER], ids=str)
def test_one_draw_for_each_decision(
  route, granularity, noise, packed, decided_for
):
  """For each of nine keys: tokens of one decision agree, others need not.

  Discrete draws may agree by chance, but hardly nine times.
  """
  found = decisions(route(granularity, noise, keys=range(9), packed=packed))
  for a, b in itertools.combinations(found, 2):
    agree = (found[a] == found[b]).all()
    assert agree == (decided_for(*a) == decided_for(*b)), (a, b)


ALL_NOISE = {
  **RANDOM,
  **JITTER,
  "expert_mask_rate": 0.3,
  "priority": "random",
  "capacity_factor": 1.0,
  "gating_dropout_rate": 0.5,
}
TABLE_NOISE = {
  key: ALL_NOISE[key]
  for key in ("expert_mask_rate", "priority", "capacity_factor")
}


@pytest.mark.slow
@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_noise_is_of_the_key_and_of_training_alone(route, granularity):
  noise = ALL_NOISE if GRANULARITIES[granularity].has_gate else TABLE_NOISE
  found = route(granularity, noise, keys=(0, 0, 1))
  for leaf in jax.tree.leaves(found):
    np.testing.assert_array_equal(leaf[0], leaf[1])
  assert (found.gates[0] != found.gates[2]).any()
  assert (found.priority[0] != found.priority[2]).any()
  quiet = jax.tree.leaves(route(granularity))
  evaluated = jax.tree.leaves(route(granularity, noise, train=False))
  for a, b in zip(evaluated, quiet, strict=True):
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("granularity", GRANULARITIES)
def test_masks_are_for_each_token_and_choice(route, granularity):
  """Also where experts are for a whole row."""
  plain = route(granularity)
  noisy = route(granularity, expert_mask_rate=0.5)
  np.testing.assert_array_equal(noisy.experts, plain.experts)
  assert noisy.gates.shape == (B, L, 3)
  gates = plain.gates[:, None] if plain.by_row else plain.gates
  gates = np.broadcast_to(2 * gates, (B, L, 3))
  lost = np.asarray(noisy.gates) == 0
  np.testing.assert_allclose(noisy.gates[~lost], gates[~lost], rtol=1e-6)
  # 72 coins, and no two tokens of a row are bound to agree.
  assert 16 < lost.sum() < 56
  assert (lost[:, 1:] != lost[:, :-1]).any(axis=(1, 2)).all()


def test_random_priorities_are_for_each_token(route):
  for granularity in ("token", "static"):
    priority = np.asarray(
      route(granularity, priority="random", capacity_factor=1.0).priority
    )
    assert priority.shape == (B, L)
    assert len(np.unique(priority)) == B * L


@pytest.mark.parametrize("train", [False, True])
def test_priority_by_gate_is_the_highest_probability(route, train):
  routing = route("token", priority="gate", capacity_factor=1.0, train=train)
  np.testing.assert_array_equal(
    routing.priority, routing.softmax.probabilities.max(-1)
  )
  by_row = route("task", priority="gate", capacity_factor=1.0, train=train)
  assert by_row.priority.shape == (B,)


def test_renormalised_before_or_after(route):
  """Of gates a, b, c without c: a and b, or their shares of a + b."""
  before, after = (
    route("token", RANDOM, renormalize=name) for name in ("before", "after")
  )
  np.testing.assert_array_equal(before.experts, after.experts)
  some_lost = (np.asarray(before.experts) == E).any(-1)
  assert some_lost.any()
  total = np.asarray(before.gates).sum(-1)
  assert (total[some_lost] < 0.9).all()
  np.testing.assert_allclose(total[~some_lost], 1, rtol=1e-6)
  np.testing.assert_allclose(
    after.gates, before.gates / total[..., None], rtol=1e-6
  )


def test_jitter_of_a_router_by_task_is_of_its_vector(route):
  """Two rows of one task agree; the probabilities of the tasks differ."""
  found = route("task", JITTER).softmax.probabilities
  np.testing.assert_array_equal(found[0], found[3])
  assert (found[0] != found[1]).all()


def test_jitter_leaves_a_tasks_candidates_alone(route):
  plain = route("task_then_token").softmax.probabilities > 0
  noisy = route("task_then_token", JITTER).softmax.probabilities > 0
  np.testing.assert_array_equal(noisy, plain)
  assert (plain.sum(-1) == 4).all()

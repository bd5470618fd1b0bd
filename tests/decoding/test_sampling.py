"""Sampling and greedy search, with logits that are given."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.decoding.sampling import greedy_or_sample
from taskmoe_jax.decoding.search import GREEDY, Sampling
from taskmoe_jax.decoding.translations import Steps

# Of six tokens; the end of sentence is never likely.
PROBABILITIES = np.array([0.05, 1e-9, 0.4, 0.25, 0.1, 0.2])
NUM_ROWS, T = 40, 25


def run(search, seed=0, limits=(T,) * NUM_ROWS, prefixes=None):
  if prefixes is None:
    prefixes = np.zeros((NUM_ROWS, 0), np.int32)
  logits = jnp.log(jnp.asarray(PROBABILITIES, jnp.float32))

  def step(tokens, memory, position, places):
    del position, places
    return jnp.broadcast_to(logits[None, None], (*tokens.shape, 6)), memory

  keys = jax.random.split(jax.random.key(seed), NUM_ROWS)
  steps = Steps(
    step=step,
    memory=(),
    limits=jnp.asarray(limits, jnp.int32),
    prefixes=jnp.asarray(prefixes),
    keys=jax.random.key_data(keys),
    num_hypotheses=search.num_hypotheses,
    target_length=T,
    rows_per_group=NUM_ROWS,
    num_compactions=0,
  )
  return jax.jit(lambda: greedy_or_sample(steps, search))()


def frequencies(found):
  """Of each token, over all rows, positions and hypotheses."""
  counts = np.bincount(np.asarray(found.tokens).reshape(-1), minlength=6)
  return counts / counts.sum()


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "expected"),
  [
    ({"temperature": 1.0}, PROBABILITIES),
    ({"temperature": 0.5}, PROBABILITIES**2),
    ({"temperature": 1.0, "top_k": 2}, [0, 0, 0.4, 0.25, 0, 0]),
    ({"temperature": 1.0, "top_p": 0.7}, [0, 0, 0.4, 0.25, 0, 0.2]),
    # Of three the first two have 0.76; of all they have 0.65.
    ({"temperature": 1.0, "top_k": 3, "top_p": 0.7}, [0, 0, 0.4, 0.25, 0, 0]),
  ],
)
def test_tokens_are_drawn_by_their_probability(flags, expected):
  """Of 3000 draws a share is within 0.03 in 3 of its standard deviations."""
  expected = np.array(expected) / np.sum(expected)
  found = frequencies(run(Sampling(n_best=3, **flags)))
  np.testing.assert_allclose(found, expected, atol=0.03)
  assert np.all(found[expected == 0] == 0)


@pytest.mark.slow
def test_rows_and_hypotheses_and_seeds_draw_for_themselves():
  search = Sampling(temperature=1.0, n_best=3)
  found = np.asarray(run(search).tokens)
  assert len({row.tobytes() for row in found.reshape(-1, T)}) == 3 * NUM_ROWS
  assert not np.array_equal(found, run(search, seed=1).tokens)
  np.testing.assert_array_equal(found, run(search).tokens)


def test_scores_are_those_of_the_model():
  """Whatever the temperature; up to 25 numbers of order 1, in float32."""
  found = run(Sampling(temperature=0.5, top_k=4))
  expected = np.log(PROBABILITIES)[np.asarray(found.tokens)].sum(-1)
  np.testing.assert_allclose(found.scores, expected, atol=1e-4)


def test_greedy_search_with_limits_and_prefixes():
  limits, prefixes = [3] * NUM_ROWS, np.zeros((NUM_ROWS, 2), np.int32)
  limits[1], limits[2] = 2, 0
  prefixes[0], prefixes[1, 0] = (4, 5), 3
  found = run(GREEDY, limits=limits, prefixes=prefixes)
  np.testing.assert_array_equal(
    found.tokens[:4, 0, :4],
    [[4, 5, 2, 0], [3, 2, 0, 0], [0, 0, 0, 0], [2, 2, 2, 0]],
  )
  steps = np.array([1, 1, 0, 3])
  np.testing.assert_allclose(
    found.scores[:4, 0], steps * np.log(0.4), atol=1e-5
  )

"""Fixed tables: who has which experts."""

import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.moe.tables import WordTable, static_experts, word_experts


@pytest.mark.parametrize(
  ("tasks", "experts", "selected", "table"),
  [
    (3, 7, 2, [[0, 1], [2, 3], [4, 5]]),
    (4, 5, 2, [[0, 1], [2, 3], [4, 0], [1, 2]]),
    (3, 2, 1, [[0], [1], [0]]),
    (2, 4, 3, [[0, 1, 2], [3, 0, 1]]),
  ],
)
def test_dealt_out(tasks, experts, selected, table):
  """To tasks and to token ids alike."""
  np.testing.assert_array_equal(static_experts(tasks, experts, selected), table)
  ids = jnp.arange(tasks, dtype=jnp.int32)
  found = word_experts(ids, WordTable.DEALT, experts, selected)
  np.testing.assert_array_equal(found, table)
  assert found.dtype == jnp.int32


V, E = 60_000, 13


@pytest.mark.slow
@pytest.mark.parametrize("num_selected", [1, 2, 3, E])
def test_hashed(num_selected):
  """Distinct, of any shape the same, and near to even."""
  ids = jnp.arange(V, dtype=jnp.int32)
  experts = np.asarray(word_experts(ids, WordTable.HASHED, E, num_selected))
  assert experts.shape == (V, num_selected)
  assert (np.diff(np.sort(experts), axis=1) > 0).all()
  again = word_experts(
    ids[:6].reshape(2, 3)[::-1], WordTable.HASHED, E, num_selected
  )
  np.testing.assert_array_equal(
    again, experts[:6].reshape(2, 3, num_selected)[::-1]
  )
  # Each place is a draw of one of E, within 5 standard deviations.
  p = 1 / E
  for place in range(num_selected):
    counts = np.bincount(experts[:, place], minlength=E)
    assert np.abs(counts - V * p).max() < 5 * np.sqrt(V * p * (1 - p))


def test_hashed_choices_know_nothing_of_each_other():
  """Nor do token ids that follow one another."""
  ids = jnp.arange(V, dtype=jnp.int32)
  experts = np.asarray(word_experts(ids, WordTable.HASHED, E, 2))
  pairs = np.bincount(experts[:, 0] * E + experts[:, 1], minlength=E * E)
  p = 1 / (E * (E - 1))
  pairs = pairs.reshape(E, E)[~np.eye(E, dtype=bool)]
  assert np.abs(pairs - V * p).max() < 5 * np.sqrt(V * p)
  steps = np.bincount((experts[1:, 0] - experts[:-1, 0]) % E, minlength=E)
  assert np.abs(steps - V / E).max() < 5 * np.sqrt(V / E)


def test_hashed_is_for_ever():
  """Checkpoints depend on it. Worked out apart, in Python's whole numbers."""

  def mixed(x):
    x = (x ^ (x >> 16)) * 0x85EBCA6B % 2**32
    x = (x ^ (x >> 13)) * 0xC2B2AE35 % 2**32
    return x ^ (x >> 16)

  def drawn(token, expert):
    return mixed((mixed(token) + expert * 0x9E3779B9) % 2**32) >> 8

  ids = [0, 1, 2, 17, 31_999, 2**31 - 1]
  expected = [
    sorted(range(E), key=lambda e: -drawn(token, e))[:3] for token in ids
  ]
  found = word_experts(jnp.array(ids, jnp.int32), WordTable.HASHED, E, 3)
  assert found.tolist() == expected

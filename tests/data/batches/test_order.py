import collections
import itertools

import numpy as np
import pytest

from taskmoe_jax.data.batches.rows import hashed, key_of, permuted

_KEY = key_of(3, "de-en", 0)


def _epoch(number, size, key=_KEY):
  places = np.arange(number * size, (number + 1) * size)
  return permuted(places, size, key)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 255, 256, 257, 10007])
def test_every_epoch_is_a_permutation(size):
  for number in (0, 1, 2, 10**9):
    assert sorted(_epoch(number, size).tolist()) == list(range(size))


def test_any_place_is_found_at_once():
  places = np.arange(5 * 257)
  whole = permuted(places, 257, _KEY)
  generator = np.random.default_rng(0)
  some = generator.choice(places, 90)
  np.testing.assert_array_equal(permuted(some, 257, _KEY), whole[some])
  # Of a corpus that no table would hold.
  far = permuted(np.array([10**17, 10**17 + 1]), 10**12 + 39, _KEY)
  assert 0 <= far.min() < far.max() < 10**12 + 39


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_small_corpora_come_in_every_order(size):
  orders = list(itertools.permutations(range(size)))
  count = 100 * len(orders)
  found = collections.Counter(
    tuple(_epoch(number, size).tolist()) for number in range(count)
  )
  assert set(found) == set(orders)
  # Of 100 expected, five standard deviations of 10.
  assert 50 < min(found.values()) <= max(found.values()) < 150


def test_it_looks_random():
  size = 100003
  first, second = _epoch(0, size), _epoch(1, size)
  other = _epoch(0, size, key_of(4, "de-en", 0))
  # A correlation of random orders is 0 within 1/sqrt(size) = 0.003.
  for one, another in (
    (first, np.arange(size)),
    (first[1:], first[:-1]),
    (first, second),
    (first, other),
  ):
    assert abs(np.corrcoef(one, another)[0, 1]) < 0.015
  # As many different steps as of a random order: 1 - 1/e of all.
  steps = len(np.unique(np.diff(first) % size)) / size
  assert steps == pytest.approx(1 - np.exp(-1), abs=0.01)


def test_keys_depend_on_all_they_are_made_of():
  keys = {
    int(key_of(seed, name, purpose)[0])
    for seed in (0, 1)
    for name in ("de-en", "en-de")
    for purpose in (0, 1)
  }
  assert len(keys) == 8


def test_hashes_differ():
  hashes = hashed(_KEY, np.arange(10**5))
  assert len(np.unique(hashes)) == 10**5
  # Half of all bits are set, within five standard deviations.
  bits = np.unpackbits(hashes.view(np.uint8)).mean()
  assert bits == pytest.approx(0.5, abs=5 * 0.5 / (64 * 10**5) ** 0.5)

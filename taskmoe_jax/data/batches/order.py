"""The order of a pair's examples: any position of any epoch, without a table.

A pair of n examples has a new permutation of them in every epoch. It is not
sampled but computed, position by position, by a Feistel network over a x b >= n
(Black and Rogaway, *Ciphers with Arbitrary Finite Domains*, 2002): so that a
host jumps to any step at once, and the order of a billion examples takes no
memory. All arithmetic is in 64 bits and wraps around.
"""

import math
import zlib

import numpy as np
from jaxtyping import Int, UInt64

_ROUNDS = 6
# The odd constant and the shifts of splitmix64 (Steele et al., 2014).
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


def key_of(seed: int, name: str, purpose: int) -> UInt64[np.ndarray, "1"]:
  """A key that depends on all three, for `permuted` or `hashed`.

  Args:
    seed: The run's seed.
    name: What the order is of, such as a pair.
    purpose: Distinguishes the orders of one name.
  """
  entropy = [seed, zlib.crc32(name.encode()), purpose]
  return np.random.SeedSequence(entropy).generate_state(1, np.uint64)


def hashed(
  key: UInt64[np.ndarray, "#n"], values: Int[np.ndarray, "#n"]
) -> UInt64[np.ndarray, "n"]:
  """Random-looking 64 bits for each value: one step of splitmix64."""
  return _mix(key + (values.astype(np.uint64) + np.uint64(1)) * _GOLDEN)


def permuted(
  places: Int[np.ndarray, "n"], size: int, key: UInt64[np.ndarray, "1"]
) -> Int[np.ndarray, "n"]:
  """Returns the example at each place of an endless order.

  The places `e * size` to `(e + 1) * size` are epoch e: each example once, in
  an order that depends on the key and on e.

  Args:
    places: Positions, counted through all epochs.
    size: Number of examples.
    key: From `key_of`.
  """
  epochs, found = np.divmod(places, size)
  keys = hashed(key, epochs)
  rows = math.isqrt(size - 1) + 1
  columns = -(-size // rows)
  found = _feistel(found.astype(np.uint64), rows, columns, keys)
  # The square is a little larger than the epoch. What falls outside follows its
  # cycle (cycle walking), which must return inside, where it began.
  while (outside := np.flatnonzero(found >= size)).size:
    found[outside] = _feistel(found[outside], rows, columns, keys[outside])
  return found.astype(np.int64)


def _feistel(
  values: UInt64[np.ndarray, "n"],
  rows: int,
  columns: int,
  keys: UInt64[np.ndarray, "n"],
) -> UInt64[np.ndarray, "n"]:
  """A permutation of `range(rows * columns)` for each key."""
  left, right = np.divmod(values, np.uint64(columns))
  for number in range(_ROUNDS):
    modulus = np.uint64(columns if number % 2 else rows)
    noise = _mix(hashed(keys, np.array([number])) ^ (right * _GOLDEN))
    left, right = right, (left + noise % modulus) % modulus
  return left * np.uint64(columns) + right


def _mix(bits: UInt64[np.ndarray, "n"]) -> UInt64[np.ndarray, "n"]:
  """The finaliser of splitmix64: every bit depends on every bit."""
  bits = (bits ^ (bits >> np.uint64(30))) * _FIRST
  bits = (bits ^ (bits >> np.uint64(27))) * _SECOND
  return bits ^ (bits >> np.uint64(31))

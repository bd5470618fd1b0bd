"""Beam search against all sequences there are, and against a plain loop.

The model is a small function of the tokens so far. It has them from a memory
like the real one's, in which hypotheses stand where they stood when they were
written: so it reads the wrong history if places are wrong.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.decoding.beam import beam_search
from taskmoe_jax.decoding.search import Beam, Normalization, Stopping
from taskmoe_jax.decoding.translations import Steps
from taskmoe_jax.vocabulary import EOS_ID

V, T = 5, 4
NUM_ROWS = 6


class HistoryModel:
  """Logits are a random function of the row and of its tokens so far."""

  def __init__(self, seed: int, size: int = V):
    rng = np.random.default_rng(seed)
    self.of_rows = jnp.asarray(rng.normal(size=(NUM_ROWS, 7)), jnp.float32)
    self.of_tokens = jnp.asarray(rng.normal(size=(T + 2, size, 7)), jnp.float32)
    self.out = jnp.asarray(1.5 * rng.normal(size=(7, size)), jnp.float32)

  def logits(self, rows, history):
    """`history` `[..., t]` are the tokens so far."""
    state = rows
    for t in range(history.shape[-1]):
      state = jnp.sin(2 * state + self.of_tokens[t][history[..., t]])
    return state @ self.out

  def step(self, tokens, memory, position, places):
    """As `Transformer.decode_step`; the memory has the tokens `[B, T, M]`."""
    memory = jax.lax.dynamic_update_slice_in_dim(
      memory, tokens[:, None], position, 1
    )
    history = jnp.take_along_axis(
      memory.swapaxes(1, 2), places, axis=1
    )  # [B, M, T]
    rows = jnp.broadcast_to(
      self.of_rows[:, None], (*tokens.shape, self.of_rows.shape[1])
    )
    after = jnp.stack(
      # The token before the first is padding, and is not part of it.
      [self.logits(rows, history[..., 1 : t + 1]) for t in range(T + 1)]
    )
    return after[position], memory


@functools.partial(jax.jit, static_argnames=("model", "search"))
def searched(model, search, limits, prefixes):
  shape = (NUM_ROWS, T + 1, search.size)
  steps = Steps(
    step=model.step,
    memory=jnp.zeros(shape, jnp.int32),
    limits=limits,
    prefixes=prefixes,
    keys=jnp.zeros((NUM_ROWS, 2), jnp.uint32),
    target_length=T + 1,
    num_hypotheses=search.size,
    rows_per_group=NUM_ROWS,
    num_compactions=0,
  )
  return beam_search(steps, search)


def run(model, search, limits, prefixes=None):
  if prefixes is None:
    prefixes = np.zeros((NUM_ROWS, 0), np.int32)
  found = searched(
    model, search, jnp.asarray(limits, jnp.int32), jnp.asarray(prefixes)
  )
  rows = []
  for tokens, scores, limit in zip(
    found.tokens, found.scores, limits, strict=True
  ):
    texts = []
    for ids in np.asarray(tokens)[:, :limit].tolist():
      end = ids.index(EOS_ID) + 1 if EOS_ID in ids else limit
      texts.append(tuple(ids[:end]))
    rows.append((texts, np.asarray(scores)))
  return rows


def penalty(length, search):
  if search.normalization == "gnmt":
    return ((5 + length) / 6) ** search.length_penalty
  return length**search.length_penalty


@functools.cache
def continuations(model, row):
  """Log-probabilities after every history that has not ended."""
  table = {}
  goes_on = [token for token in range(V) if token != EOS_ID]
  for length in range(T):
    histories = np.array(list(itertools.product(goes_on, repeat=length)), int)
    rows = jnp.broadcast_to(
      model.of_rows[row][None], (len(histories), model.of_rows.shape[1])
    )
    logits = np.asarray(
      model.logits(rows, jnp.asarray(histories, jnp.int32)), np.float64
    )
    norm = np.log(np.exp(logits).sum(-1, keepdims=True))
    for history, of_next in zip(histories, logits - norm, strict=True):
      table[tuple(history.tolist())] = of_next
  return table


def exhaustive(model, row, search, limit):
  """All sequences that end, or are cut off at the limit; best first."""
  table = continuations(model, row)
  found = []
  for history in table:
    if len(history) >= limit:
      continue
    log_probability = sum(
      table[history[:t]][token] for t, token in enumerate(history)
    )
    for token in range(V):
      if token == EOS_ID or len(history) + 1 == limit:
        score = (log_probability + table[history][token]) / penalty(
          len(history) + 1, search
        )
        found.append((score, (*history, token)))
  return sorted(found, reverse=True)[: search.n_best]


@pytest.fixture(scope="module")
def model():
  return HistoryModel(3)


LIMITS = [4, 3, 4, 2, 4, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("length_penalty", "normalization"),
  [(0.0, "gnmt"), (0.6, "gnmt"), (1.4, "power")],
)
def test_a_beam_wide_enough_finds_the_best_of_all(
  model, length_penalty, normalization
):
  """No more than 4^3 sequences can run at once, nor 5^2 end in one step."""
  search = Beam(
    size=64,
    n_best=5,
    length_penalty=length_penalty,
    normalization=Normalization(normalization),
    stopping=Stopping.SURE,
  )
  found = run(model, search, LIMITS)
  for row, (texts, scores) in enumerate(found):
    expected = exhaustive(model, row, search, LIMITS[row])
    assert texts[: len(expected)] == [text for _, text in expected]
    np.testing.assert_allclose(
      scores[: len(expected)], [score for score, _ in expected], atol=1e-5
    )


def by_loop(model, row, search, limit, prefix=()):
  """The rules of `Beam`, one hypothesis after the other."""
  running, ended = [(0.0, tuple(prefix))], []
  for length in range(len(prefix) + 1, limit + 1):
    candidates = []
    for log_probability, history in running:
      of_next = continuations(model, row)[history]
      candidates += [
        (log_probability + gain, (*history, token))
        for token, gain in enumerate(of_next)
      ]
    candidates = sorted(candidates, reverse=True)[: 2 * search.size]
    own = length - len(prefix)
    running = []
    for rank, (log_probability, text) in enumerate(candidates):
      if text[-1] == EOS_ID or length == limit:
        if rank < search.size:
          ended.append((log_probability / penalty(own, search), text))
      elif len(running) < search.size:
        running.append((log_probability, text))
    ended = sorted(ended, reverse=True)[: search.size]
    if not running:
      break
    if search.stopping == "full":
      over = len(ended) == search.size
    elif search.stopping == "likely":
      bound = running[0][0] / penalty(own, search)
      over = len(ended) == search.size and ended[-1][0] >= bound
    else:
      most = own if search.length_penalty <= 0 else limit - len(prefix)
      bound = running[0][0] / penalty(most, search)
      needed = search.n_best
      over = len(ended) >= needed and ended[needed - 1][0] >= bound
    if over:
      break
  return ended[: search.n_best]


@pytest.mark.slow
@pytest.mark.parametrize("stopping", ["full", "likely", "sure"])
@pytest.mark.parametrize(
  ("size", "n_best", "length_penalty"), [(1, 1, 0.0), (2, 2, 1.0), (3, 2, -0.5)]
)
def test_a_narrow_beam_follows_its_rules(
  model, stopping, size, n_best, length_penalty
):
  search = Beam(
    size=size,
    n_best=n_best,
    length_penalty=length_penalty,
    stopping=Stopping(stopping),
  )
  for row, (texts, scores) in enumerate(run(model, search, LIMITS)):
    expected = by_loop(model, row, search, LIMITS[row])
    assert texts == [text for _, text in expected]
    np.testing.assert_allclose(
      scores, [score for score, _ in expected], atol=1e-5
    )


@pytest.mark.slow
def test_prefixes_are_kept_and_cost_nothing(model):
  prefixes = [[3, 4], [0, 0], [2, 0], [0, 0], [4, 4], [0, 0]]
  search = Beam(size=2, n_best=2, length_penalty=0.7)
  found = run(model, search, LIMITS, np.array(prefixes, np.int32))
  for row, (texts, scores) in enumerate(found):
    prefix = [token for token in prefixes[row] if token]
    expected = by_loop(model, row, search, LIMITS[row], prefix)
    assert texts == [text for _, text in expected]
    assert all(list(text[: len(prefix)]) == prefix for text in texts)
    np.testing.assert_allclose(
      scores, [score for score, _ in expected], atol=1e-5
    )


def test_a_row_of_padding_finds_nothing(model):
  search = Beam(size=2, n_best=1, length_penalty=0.0)
  limits = [*LIMITS[:-1], 0]
  found = run(model, search, limits)
  assert found[-1][1] == -np.inf
  assert [texts for texts, _ in found[:-1]] == [
    texts for texts, _ in run(model, search, LIMITS)[:-1]
  ]

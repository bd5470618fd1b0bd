import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.decoding.generate import Rows, generate
from taskmoe_jax.decoding.search import Greedy
from taskmoe_jax.models.parameters import unrolled
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID

pytestmark = pytest.mark.slow

TARGET_LENGTH = 9
# Rows in twos of one task; the last row only fills the batch up.
SOURCES = np.array(
  [
    [5, 9, 12, 1, 0],
    [6, 8, 7, 3, 1],
    [14, 1, 0, 0, 0],
    [15, 16, 10, 1, 0],
    [11, 4, 1, 0, 0],
    [2, 6, 6, 6, 1],
    [13, 12, 1, 0, 0],
    [0, 0, 0, 0, 0],
  ],
  np.int32,
)
TASK_IDS = np.array([2, 2, 0, 0, 1, 1, 0, 0], np.int32)


@pytest.fixture(scope="module")
def by_loop(model, params):
  """A plain loop which runs the whole model again for every token."""

  @jax.jit
  def logits_of(inputs, length):
    batch = {
      "encoder_input_tokens": jnp.asarray(SOURCES),
      "decoder_input_tokens": inputs,
      "decoder_loss_weights": jnp.tile(
        (jnp.arange(TARGET_LENGTH) < length)[None], (len(SOURCES), 1)
      ).astype(jnp.float32),
    }
    variables, tasks = {"params": params}, jnp.asarray(TASK_IDS)
    return model.apply(variables, batch, tasks, train=False)[0]

  rows = [[] for _ in SOURCES]
  scores = np.zeros(len(SOURCES))
  finished = [not source.any() for source in SOURCES]
  for position in range(TARGET_LENGTH):
    inputs = np.zeros((len(SOURCES), TARGET_LENGTH), np.int32)
    for i, row in enumerate(rows):
      inputs[i, 1 : len(row) + 1] = row
    logits = logits_of(jnp.asarray(inputs), position + 1)[:, position]
    log_probabilities = np.asarray(jax.nn.log_softmax(logits))
    for i, row in enumerate(rows):
      if not finished[i]:
        best = int(log_probabilities[i].argmax())
        row.append(best)
        scores[i] += log_probabilities[i, best]
        finished[i] = best == EOS_ID
  return rows, scores, finished


def greedy(model, params, spread=lambda x: x, partitioning=None):
  rows = Rows(
    sources=SOURCES,
    task_ids=TASK_IDS,
    limits=np.full(len(SOURCES), TARGET_LENGTH, np.int32),
    prefixes=np.zeros((len(SOURCES), 0), np.int32),
    keys=np.zeros((len(SOURCES), 2), np.uint32),
  )
  found = generate(
    unrolled(params, model.config),
    jax.tree.map(spread, rows),
    model=model.clone(unrolled=True),
    search=Greedy(),
    target_length=TARGET_LENGTH,
    rows_per_task_group=2,
    partitioning=partitioning,
  )
  return types.SimpleNamespace(
    tokens=found.tokens[:, 0],
    scores=found.scores[:, 0],
    finished=found.finished[:, 0],
  )


@pytest.fixture(scope="module")
def hypotheses(model, params):
  return greedy(model, params)


@pytest.mark.slow
def test_the_loop_meets_all_cases(by_loop):
  """Rows that end in the midst of things, and rows that are cut off."""
  rows, _, finished = by_loop
  lengths = {len(row) for row, end in zip(rows, finished, strict=True) if end}
  assert len(lengths - {0}) >= 2
  assert not all(finished)


@pytest.mark.slow
def test_tokens_are_those_of_the_loop(hypotheses, by_loop):
  rows, _, finished = by_loop
  expected = np.full((len(SOURCES), TARGET_LENGTH), PAD_ID)
  for i, row in enumerate(rows):
    expected[i, : len(row)] = row
  np.testing.assert_array_equal(hypotheses.tokens, expected)
  np.testing.assert_array_equal(hypotheses.finished, finished)


def test_scores_are_sums_of_log_probabilities(hypotheses, by_loop):
  """Up to nine float32 numbers of order 1."""
  np.testing.assert_allclose(hypotheses.scores, by_loop[1], atol=1e-4)
  assert hypotheses.scores[-1] == 0


@pytest.mark.expensive("it compiles or runs whole programs")
def test_a_mesh_decodes_the_same(hypotheses, model, params):
  shape = MeshShape(data=2, expert=1, model=1)
  parts = Partitioning(make_mesh(shape, jax.devices()[:2]))
  params = jax.device_put(params, parts.replicated)
  found = greedy(model, params, parts.spread_rows, parts)
  np.testing.assert_array_equal(found.tokens, hypotheses.tokens)
  np.testing.assert_array_equal(found.finished, hypotheses.finished)
  np.testing.assert_allclose(found.scores, hypotheses.scores, atol=1e-4)

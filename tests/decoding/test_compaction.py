"""Rows that are done leave the batch, and nothing else changes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.decoding import batches
from taskmoe_jax.decoding.batches import Sentence
from taskmoe_jax.decoding.compaction import take_rows
from taskmoe_jax.decoding.generate import Rows, generate
from taskmoe_jax.decoding.sampling import greedy_or_sample
from taskmoe_jax.decoding.search import Beam, Greedy, Sampling
from taskmoe_jax.decoding.translations import Steps
from taskmoe_jax.models.parameters import unrolled
from taskmoe_jax.models.transformer import DecodingMemory
from taskmoe_jax.moe.router_inputs import RouterInputs
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning

pytestmark = pytest.mark.bit_for_bit

TARGET_LENGTH = 12
# Two groups of four rows; each group's rows have one task.
LIMITS = np.array([12, 2, 3, 2, 4, 9, 1, 12], np.int32)
TASK_IDS = np.array([2, 2, 2, 2, 1, 1, 1, 1], np.int32)
SEARCHES = (
  Greedy(),
  Beam(size=3, length_penalty=0.6, n_best=2),
  Sampling(temperature=0.8, top_k=5, top_p=0.9, n_best=2, seed=0),
)


@pytest.fixture
def search_rows(model, params):
  """Searches two groups of rows, on one device or on two."""
  generator = np.random.default_rng(3)
  sources = generator.integers(2, 17, (8, 5)).astype(np.int32)
  sources[:, -1] = 1
  rows = Rows(
    sources=sources,
    task_ids=TASK_IDS,
    limits=LIMITS,
    prefixes=np.zeros((8, 0), np.int32),
    keys=generator.integers(0, 99, (8, 2)).astype(np.uint32),
  )

  def search_rows(search, num_compactions, parts=None):
    place = (lambda x: x) if parts is None else parts.spread_rows
    weights = unrolled(params, model.config)
    if parts is not None:
      weights = jax.device_put(weights, parts.replicated)
    return generate(
      weights,
      jax.tree.map(place, rows),
      model=model.clone(unrolled=True),
      search=search,
      target_length=TARGET_LENGTH,
      rows_per_task_group=4,
      num_compactions=num_compactions,
      partitioning=parts,
    )

  return search_rows


@pytest.mark.expensive("it compiles models")
@pytest.mark.parametrize("search", SEARCHES, ids=lambda s: type(s).__name__)
def test_halving_changes_nothing(search_rows, search):
  whole, halved = search_rows(search, 0), search_rows(search, 2)
  np.testing.assert_array_equal(halved.tokens, whole.tokens)
  np.testing.assert_array_equal(halved.finished, whole.finished)
  np.testing.assert_allclose(halved.scores, whole.scores, atol=1e-4)


@pytest.mark.expensive("it compiles models")
def test_on_a_mesh_each_device_halves_its_own(search_rows):
  """To which experts of each group's task belong."""
  shape = MeshShape(data=2, expert=1, model=1)
  parts = Partitioning(make_mesh(shape, jax.devices()[:2]))
  whole, halved = (
    search_rows(SEARCHES[1], 0),
    search_rows(SEARCHES[1], 2, parts),
  )
  np.testing.assert_array_equal(halved.tokens, whole.tokens)
  np.testing.assert_allclose(halved.scores, whole.scores, atol=1e-4)


@pytest.mark.slow
def test_steps_are_taken_with_the_rows_that_are_left():
  """Four rows, then two, then one; a step as wide as the batch was."""
  widths = []

  def step(tokens, memory, position, places):
    jax.debug.callback(lambda _: widths.append(tokens.shape[0]), position)
    return jnp.zeros((*tokens.shape, 6)), memory

  def run(limits):
    widths.clear()
    rows = len(limits)
    steps = Steps(
      step=step,
      memory=DecodingMemory(
        layers=[],
        source_mask=jnp.ones((rows, 1, 3), bool),
        router_inputs=RouterInputs(
          task_ids=jnp.zeros((rows,), jnp.int32),
          segment_ids=jnp.ones((rows, 1), jnp.int32),
        ),
      ),
      limits=jnp.asarray(limits, jnp.int32),
      prefixes=jnp.zeros((rows, 0), jnp.int32),
      keys=jnp.zeros((rows, 2), jnp.uint32),
      num_hypotheses=1,
      target_length=9,
      rows_per_group=4,
      num_compactions=2,
    )
    jax.block_until_ready(jax.jit(lambda: greedy_or_sample(steps, Greedy()))())
    jax.effects_barrier()
    return widths

  assert run([9, 4, 2, 2]) == [4] * 2 + [2] * 2 + [1] * 5
  # Rows that only fill the batch cost nothing.
  assert run([3, 0, 0, 0]) == [1] * 3
  # Two groups go on together until both have lost half.
  assert run([2, 2, 2, 5, 4, 4, 4, 4]) == [8] * 4 + [2]


def test_taking_rows_of_each_group():
  rows = np.array([[0], [10], [20], [30], [40], [50]])
  kept = jnp.array([[2, 0], [1, 2]])
  taken = take_rows({"x": jnp.asarray(rows)}, kept)
  np.testing.assert_array_equal(taken["x"], [[20], [0], [40], [50]])


@pytest.mark.parametrize(
  ("num_rows", "num_shards", "expected"),
  [(32, 1, 2), (32, 8, 0), (64, 8, 1), (12, 1, 1), (6, 1, 0), (31, 1, 0)],
)
def test_how_often(num_rows, num_shards, expected):
  """Down to four rows a device, where they can be halved."""
  sentences = [Sentence(i, [5] * 7) for i in range(7 * num_rows + 1)]
  found = batches.compactions_by_bucket(sentences, num_rows, num_shards)
  assert found == {32: expected}
  # Seven batches do not pay for longer compiling.
  assert batches.compactions_by_bucket(sentences[1:], num_rows, num_shards) == {
    32: 0
  }
  longer = [dataclasses.replace(sentences[0], source=[5] * 40)]
  assert batches.compactions_by_bucket(
    sentences + longer, num_rows, num_shards
  ) == {
    32: expected,
    64: 0,
  }

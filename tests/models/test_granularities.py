"""What must hold of every granularity of encoder and decoder.

Four sentences, of two tasks: A and B, C and D. Packed they are two rows:

  source  A A A A B B B .      target  A A A B B . .
          C C C C C D D .              C C D D D D .

The models are compiled without optimisation: it takes longer than they run.
Tolerances: logits are of order 1, and float32 sums of some dozen products may
be made in another order.
"""

import dataclasses
import functools
import itertools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.models.parameters import unrolled
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.granularity import GRANULARITIES

pytestmark = pytest.mark.slow

SENTENCES = [
  ([5, 9, 12, 1], [7, 15, 1]),
  ([6, 8, 1], [11, 1]),
  ([5, 14, 3, 17, 1], [4, 1]),
  ([13, 1], [18, 10, 16, 1]),
]
TASK_IDS = [2, 2, 0, 0]
S, T = 5, 4


def padded(sequences, length):
  rows = np.zeros((len(sequences), length), np.int32)
  for row, sequence in zip(rows, sequences, strict=True):
    row[: len(sequence)] = sequence
  return jnp.asarray(rows)


def batch_of(sentences, source_length=S, target_length=T):
  """One sentence a row; decoders read what they write, one token later."""
  sources, targets = zip(*sentences, strict=True)
  return {
    "encoder_input_tokens": padded(sources, source_length),
    "decoder_input_tokens": padded(
      [[0, *t[:-1]] for t in targets], target_length
    ),
    "decoder_loss_weights": padded(
      [[1] * len(t) for t in targets], target_length
    ).astype(jnp.float32),
  }


def packed_batch(sentences):
  rows = [sentences[:2], sentences[2:]]

  def join(parts):
    return [list(itertools.chain(*row)) for row in parts]

  sources = join([s for s, _ in row] for row in rows)
  inputs = join([[0, *t[:-1]] for _, t in row] for row in rows)
  source_ids = join([[i + 1] * len(row[i][0]) for i in (0, 1)] for row in rows)
  target_ids = join([[i + 1] * len(row[i][1]) for i in (0, 1)] for row in rows)
  return {
    "encoder_input_tokens": padded(sources, 8),
    "decoder_input_tokens": padded(inputs, 7),
    "decoder_loss_weights": padded(target_ids, 7).astype(jnp.float32),
    "encoder_segment_ids": padded(source_ids, 8),
    "decoder_segment_ids": padded(target_ids, 7),
  }


# Where the sentences' targets lie in packed rows.
PLACES = [(0, 0, 3), (0, 3, 5), (1, 0, 2), (1, 2, 6)]


def compiled(function):
  return jax.jit(
    function,
    compiler_options={
      "xla_backend_optimization_level": 0,
      "xla_llvm_disable_expensive_passes": True,
    },
  )


def forward(model, params, batch, task_ids, rows_per_task_group):
  logits, statistics = model.apply(
    {"params": params},
    batch,
    jnp.array(task_ids),
    train=False,
    rows_per_task_group=rows_per_task_group,
  )
  return logits, statistics


def step_by_step(model, params, batch, task_ids):
  """Logits as decoding makes them, fed with the tokens of the batch."""
  variables = {"params": unrolled(params, model.config)}
  model = model.clone(unrolled=True)
  memory = model.apply(
    variables,
    batch["encoder_input_tokens"],
    jnp.array(task_ids),
    T,
    rows_per_task_group=2,
    method="start_decoding",
  )

  def step(memory, inputs):
    token, position = inputs
    logits, memory = model.apply(
      variables,
      token[:, None],
      memory,
      position,
      jnp.zeros((len(SENTENCES), 1, T), jnp.int32),
      method="decode_step",
    )
    return memory, logits[:, 0]

  inputs = batch["decoder_input_tokens"].T, jnp.arange(T)
  return jnp.moveaxis(jax.lax.scan(step, memory, inputs)[1], 0, 1)


@pytest.fixture(scope="module")
def routed_by(tiny_config, draw_params):
  """A model's functions by its granularities, compiled when first called."""

  @functools.cache
  def routed_by(encoder, decoder):
    config = tiny_config(encoder, decoder)
    if encoder != decoder:
      # One block is enough here; two are, where both stacks are alike.
      stack = dataclasses.replace(config.decoder, num_layers=2)
      config = dataclasses.replace(config, decoder=stack)
    model, params = Transformer(config, 3), draw_params(config)
    forwards = compiled(lambda b: forward(model, params, b, TASK_IDS, 2))
    return types.SimpleNamespace(
      forward=forwards,
      rows=lambda b: forwards(b)[0],
      packed=compiled(lambda b: forward(model, params, b, TASK_IDS[::2], 1)[0]),
      steps=compiled(lambda b: step_by_step(model, params, b, TASK_IDS)),
    )

  return routed_by


# All pairs of the first four, and the others with each kind of neighbour.
MIXED = [
  *itertools.product(list(GRANULARITIES)[:4], repeat=2),
  ("word", "word"),
  ("word", "task_then_token"),
  ("sentence", "word"),
  ("task_then_token", "sentence"),
  ("task_then_token", "task_then_token"),
  ("token", "task_then_token"),
]


@pytest.fixture(scope="module", params=MIXED, ids="-".join)
def mixed(request, routed_by):
  return routed_by(*request.param)


@pytest.fixture(scope="module", params=GRANULARITIES)
def routed(request, routed_by):
  """With one granularity in both stacks."""
  return routed_by(request.param, request.param)


@pytest.mark.expensive("it compiles models")
def test_decoding_step_by_step_gives_the_same_logits(mixed):
  batch = batch_of(SENTENCES)
  rows, steps = mixed.rows(batch), mixed.steps(batch)
  for i, (_, target) in enumerate(SENTENCES):
    n = len(target)
    np.testing.assert_allclose(steps[i, :n], rows[i, :n], atol=1e-5)


@pytest.mark.expensive("it compiles models")
def test_packed_sentences_are_those_of_rows(routed):
  rows = routed.rows(batch_of(SENTENCES))
  packed = routed.packed(packed_batch(SENTENCES))
  for i, (row, begin, end) in enumerate(PLACES):
    np.testing.assert_allclose(
      packed[row, begin:end], rows[i, : end - begin], atol=1e-5
    )


# Sentence D: its third token is other, and is read in the fourth place.
LATER = [*SENTENCES[:3], (SENTENCES[3][0], [18, 10, 2, 1])]


@pytest.mark.slow
def test_no_logit_depends_on_a_later_token(mixed):
  before, after = mixed.rows(batch_of(SENTENCES)), mixed.rows(batch_of(LATER))
  np.testing.assert_allclose(before[:3], after[:3], atol=1e-6)
  np.testing.assert_allclose(before[3, :3], after[3, :3], atol=1e-6)
  assert np.abs(before[3, 3] - after[3, 3]).max() > 1e-3


def test_no_logit_of_packed_rows_depends_on_a_later_token(routed):
  before = routed.packed(packed_batch(SENTENCES))
  after = routed.packed(packed_batch(LATER))
  np.testing.assert_allclose(before[0, :5], after[0, :5], atol=1e-6)
  np.testing.assert_allclose(before[1, :5], after[1, :5], atol=1e-6)
  assert np.abs(before[1, 5] - after[1, 5]).max() > 1e-3


def test_packed_sentences_do_not_see_each_other(routed):
  """Another sentence A, source and target, leaves B as it is."""
  other = [([10, 3, 7, 1], [9, 9, 1]), *SENTENCES[1:]]
  before = routed.packed(packed_batch(SENTENCES))
  after = routed.packed(packed_batch(other))
  assert np.abs(before[0, :3] - after[0, :3]).max() > 1e-3
  np.testing.assert_allclose(before[0, 3:5], after[0, 3:5], atol=1e-6)
  np.testing.assert_allclose(before[1, :6], after[1, :6], atol=1e-6)


@pytest.mark.expensive("it compiles models")
def test_padding_changes_nothing(routed):
  """Wider arrays, neither of whose sides is as wide as it was."""
  rows, statistics = routed.forward(batch_of(SENTENCES))
  wide, of_wide = routed.forward(batch_of(SENTENCES, S + 3, T + 2))
  for i, (_, target) in enumerate(SENTENCES):
    n = len(target)
    np.testing.assert_allclose(wide[i, :n], rows[i, :n], atol=1e-5)
  # Nor do losses and statistics count it.
  for a, b in zip(
    jax.tree.leaves(statistics), jax.tree.leaves(of_wide), strict=True
  ):
    np.testing.assert_allclose(a, b, atol=1e-5)
  assert {name: s.load.shape for name, s in statistics.items()} == {
    "encoder": (1, 5),
    "decoder": (2, 5),
  }
  for of_stack in statistics.values():
    np.testing.assert_allclose(of_stack.load.sum(-1), 1, atol=1e-6)
    assert not of_stack.dropped.any()

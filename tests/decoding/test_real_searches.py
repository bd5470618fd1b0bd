"""Beams, samples and scores of a whole model, with its memory and on meshes.

Words are numbers here: every sequence of tokens is a text of its own.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.decoding import batches
from taskmoe_jax.decoding.search import Beam, Lengths, Normalization, Sampling
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.models.parameters import abstract_params, parameter_shardings
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.task_space import TaskBy, TaskSpace
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, Vocabulary

pytestmark = pytest.mark.bit_for_bit

SPACE = TaskSpace(
  ("en", "de", "fr"), ("en-de", "fr-en", "en-fr"), TaskBy.TARGET
)
LINES = ["7 9 12", "6", "", "14 15 8 8 10 13 9 6", "11 2", "10 7 7 13"]
LENGTHS = Lengths(max_target=8)
SEARCHES = {
  "beam": Beam(
    size=3,
    length_penalty=0.8,
    n_best=3,
    normalization=Normalization.POWER,
  ),
  "sampling": Sampling(temperature=0.8, top_k=9, top_p=0.9, n_best=2, seed=4),
}
SYMBOLS = {"en": 3, "de": 4, "fr": 5}
TASK = SPACE.task_id("de")


class Numbers(Vocabulary):
  """Texts such as `7 9 12` are token ids."""

  def __init__(self):
    pass

  def encode(self, lines):
    return [list(map(int, line.split())) for line in lines]

  def decode(self, ids):
    return [" ".join(str(i) for i in row if i != EOS_ID) for row in ids]

  def target_id(self, language):
    return SYMBOLS[language]


def _stack(granularity, num_layers):
  moe = MoeConfig(
    granularity=GRANULARITIES[granularity],
    num_experts=4,
    num_selected=2,
    expert_mlp_dim=6,
    dispatch=Dispatch.AUTO,
    capacity_factor=1.0,
    group_size=64,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )
  return StackConfig(num_layers=num_layers, mlp_dims=(10,), moe=moe)


CONFIG = ModelConfig(
  vocab_size=16,
  embed_dim=12,
  num_heads=2,
  head_dim=5,
  activation=Activation.RELU,
  embeddings=Embeddings.ONE,
  encoder=_stack("token", 2),
  decoder=_stack("sentence", 2),
)
MODEL = Transformer(CONFIG, len(SPACE.tasks))


@pytest.fixture(scope="module")
def params(random_params):
  return random_params(MODEL)


@pytest.fixture(scope="module")
def translator(params):
  return Translator(CONFIG, params, SPACE, Numbers())


@pytest.fixture(scope="module")
def decoded(translator):
  """What each search finds for all lines in one batch; found once."""
  return functools.cache(
    lambda name: translator.decode(
      LINES, "en-de", search=SEARCHES[name], lengths=LENGTHS, batch_size=8
    )
  )


def check_same(found, expected, order=(0, 1, 2, 3, 4, 5)):
  """Scores are sums of up to eight float32 numbers of order 1."""
  for of_line, i in zip(found.n_best, order, strict=True):
    wanted = expected.n_best[i]
    assert [h.token_ids for h in of_line] == [h.token_ids for h in wanted]
    assert [h.finished for h in of_line] == [h.finished for h in wanted]
    np.testing.assert_allclose(
      [h.score for h in of_line], [h.score for h in wanted], atol=1e-4
    )


@pytest.mark.expensive("it compiles models")
@pytest.mark.parametrize("name", SEARCHES)
def test_order_does_not_matter(name, translator, decoded):
  order = [4, 0, 3, 5, 2, 1]
  found = translator.decode(
    [LINES[i] for i in order],
    "en-de",
    search=SEARCHES[name],
    lengths=LENGTHS,
    batch_size=8,
  )
  check_same(found, decoded(name), order)


@pytest.mark.slow
@pytest.mark.parametrize("name", SEARCHES)
def test_batch_size_and_bucket_do_not_matter(
  name, translator, decoded, monkeypatch
):
  """Two batches of three rows, and one that is filled up."""
  expected = decoded(name)
  monkeypatch.setattr(batches, "_SHORTEST_BUCKET", 16)
  found = translator.decode(
    LINES, "en-de", search=SEARCHES[name], lengths=LENGTHS, batch_size=3
  )
  check_same(found, expected)


@pytest.mark.expensive("it compiles models")
@pytest.mark.parametrize("name", SEARCHES)
def test_a_mesh_does_not_matter(name, params, decoded):
  """Rows on two devices, heads and hidden widths on two."""
  shape = MeshShape(data=2, expert=1, model=2)
  parts = Partitioning(make_mesh(shape, jax.devices()[:4]))
  shardings = parameter_shardings(abstract_params(MODEL), parts)
  translator = Translator(
    CONFIG,
    jax.device_put(params, shardings),
    SPACE,
    Numbers(),
    partitioning=parts,
  )
  found = translator.decode(
    LINES, "en-de", search=SEARCHES[name], lengths=LENGTHS, batch_size=8
  )
  check_same(found, decoded(name))


@pytest.fixture(scope="module")
def of_next(params):
  """Log-probabilities after each of three histories, in NumPy, by the whole
  model: without a memory, and each line by itself.
  """

  @jax.jit
  def logits_of(source, inputs, length):
    weights = jnp.broadcast_to(jnp.arange(inputs.shape[1])[None], inputs.shape)
    batch = {
      "encoder_input_tokens": jnp.broadcast_to(source, (3, source.shape[1])),
      "decoder_input_tokens": inputs,
      "decoder_loss_weights": (weights < length).astype(jnp.float32),
    }
    tasks = jnp.full(3, TASK, jnp.int32)
    return MODEL.apply({"params": params}, batch, tasks, train=False)[0]

  def run(line, histories):
    source = np.full((1, 10), PAD_ID, np.int32)
    ids = [SYMBOLS["de"], *map(int, line.split()), EOS_ID]
    source[0, : len(ids)] = ids
    inputs = np.full((3, LENGTHS.max_target + 1), PAD_ID, np.int32)
    length = len(histories[0])
    for row, history in enumerate(histories):
      inputs[row, 1 : length + 1] = history
    logits = np.asarray(logits_of(source, inputs, length + 1), np.float64)
    logits -= logits.max(-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    return logits[: len(histories), : length + 1]

  return run


def by_loop(of_next, line):
  """The rules of the beam, one hypothesis after the other."""
  search, limit = SEARCHES["beam"], LENGTHS.max_target
  running, ended = [(0.0, ())], []
  for length in range(1, limit + 1):
    gains = of_next(line, [history for _, history in running])[:, -1]
    candidates = sorted(
      (
        (so_far + gain, (*history, token))
        for (so_far, history), row in zip(running, gains, strict=True)
        for token, gain in enumerate(row.tolist())
      ),
      reverse=True,
    )[: 2 * search.size]
    divisor = length**search.length_penalty
    running = []
    for rank, (so_far, history) in enumerate(candidates):
      if history[-1] == EOS_ID or length == limit:
        if rank < search.size:
          ended.append((so_far / divisor, history))
      elif len(running) < search.size:
        running.append((so_far, history))
    ended = sorted(ended, reverse=True)[: search.size]
    full = len(ended) == search.size
    if not running or (full and ended[-1][0] >= running[0][0] / divisor):
      break
  return ended


@pytest.mark.expensive("it compiles models")
def test_a_beam_is_that_of_a_loop_without_memory(of_next, decoded):
  found = decoded("beam").n_best
  for line, hypotheses in zip(LINES, found, strict=True):
    if not line:
      continue
    expected = by_loop(of_next, line)
    assert [tuple(h.token_ids) for h in hypotheses] == [
      history for _, history in expected
    ]
    np.testing.assert_allclose(
      [h.score for h in hypotheses], [score for score, _ in expected], atol=1e-4
    )
  assert {h.finished for of_line in found for h in of_line} == {True, False}


@pytest.mark.expensive("it compiles or runs whole programs")
@pytest.mark.parametrize("name", SEARCHES)
def test_scores_are_those_of_the_hypotheses(name, translator, decoded, of_next):
  """Undone the length penalty; against `score`, and a NumPy softmax."""
  lines, found = [], []
  for line, of_line in zip(LINES, decoded(name).n_best, strict=True):
    # Given padding as a token, `score` would take it for the end.
    found += [h for h in of_line if line and PAD_ID not in h.token_ids]
    lines += [line] * (len(found) - len(lines))
  assert len(found) >= 4
  scored = translator.score(lines, [h.text for h in found], "en-de")
  for line, hypothesis, score in zip(lines, found, scored, strict=True):
    ids = hypothesis.token_ids
    assert score.token_ids[: len(ids)] == ids
    rows = of_next(line, [ids[:-1]])[0]
    expected = rows[np.arange(len(ids)), ids]
    np.testing.assert_allclose(
      score.log_probabilities[: len(ids)], expected, atol=1e-4
    )
    divisor = len(ids) ** 0.8 if name == "beam" else 1.0
    np.testing.assert_allclose(
      hypothesis.score * divisor, expected.sum(), atol=1e-4
    )

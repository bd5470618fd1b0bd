"""A tiny model, whose every number a test can choose."""

import contextlib
import resource

import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary
from tests.trained_pieces import trained_pieces


@pytest.fixture
def space():
  return TaskSpace.from_pairs(("en-de", "de-en", "en-fr", "fr-en"), "target")


@pytest.fixture
def model_config():
  """Makes a config; `moe` changes the experts of both stacks."""

  def make(*, moe=(), **changes):
    def stack(granularity):
      settings = {
        "granularity": granularity,
        "num_experts": 4,
        "num_selected": 2,
        "expert_mlp_dim": 5,
        "dispatch": "auto",
        "capacity_factor": 2.0,
        "group_size": 64,
        "balance_loss_weight": 0.01,
        "z_loss_weight": 0.001,
        **dict(moe),
      }
      return StackConfig(
        num_layers=2, mlp_dims=(7,), moe=MoeConfig.from_dict(settings)
      )

    settings = {
      "vocab_size": 19,
      "embed_dim": 8,
      "num_heads": 2,
      "head_dim": 3,
      "activation": "relu",
      "embeddings": "one",
      "encoder": stack("token"),
      "decoder": stack("task"),
      **changes,
    }
    return ModelConfig.from_dict(settings)

  return make


@pytest.fixture(scope="session")
def vocabulary_of():
  """Makes a vocabulary of these letters."""

  def make(letters):
    return Vocabulary(
      trained_pieces(
        [letters] * 3, vocab_size=len(letters) + 4, model_type="char"
      )
    )

  return make


@pytest.fixture(scope="module")
def _compiled():
  return {}


@pytest.fixture
def steps_compiled_once(_compiled, monkeypatch):
  """A run that goes on takes the program it began with, where it is the same.

  To the letter, and for the same devices. Runs that begin in a process of their
  own compile it again.
  """
  from taskmoe_jax.train import program

  compile_step = program.compile_step

  def compiled_once(step, shardings, rows):
    jitted = compile_step(step, shardings, rows)
    found = []

    def call(state, batch):
      if not found:
        lowered = jitted.lower(state, batch)
        key = (rows.mesh, lowered.as_text())
        if key not in _compiled:
          _compiled[key] = lowered.compile()
        found.append(_compiled[key])
      return found[0](state, batch)

    return call

  monkeypatch.setattr(program, "compile_step", compiled_once)


@pytest.fixture
def no_room():
  """Lets no file grow over so many bytes, as a full disk would not.

  Which cannot be had without the rights to mount one. Python and C++ alike meet
  it where they write; the error is another one (EFBIG).
  """

  @contextlib.contextmanager
  def no_room(largest):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest, before[1]))
    try:
      yield
    finally:
      resource.setrlimit(resource.RLIMIT_FSIZE, before)

  return no_room


@pytest.fixture
def monitoring():
  """Makes a `Monitoring`; nothing is on unless `changes` says so."""

  def make(evaluation=(), **changes):
    from taskmoe_jax.evaluate.groups import sample_scores
    from taskmoe_jax.train.hooks.evaluator import EvaluationPolicy
    from taskmoe_jax.train.hooks.profiling import TracedSteps
    from taskmoe_jax.train.monitoring import Monitoring

    policy = {
      "every_steps": None,
      "loss_examples": 3,
      "bleu_examples": 0,
      "batch_size": 4,
      "score": sample_scores,
      **dict(evaluation),
    }
    settings = {
      "evaluation": EvaluationPolicy(**policy),
      "trace": TracedSteps(first_step=None, num_steps=1),
      "histograms_every": None,
      "wandb_project": None,
      **changes,
    }
    return Monitoring(**settings)

  return make


@pytest.fixture
def run(model_config, space, vocabulary_of):
  return Run(model_config(), space, vocabulary_of("abcdefgh"), seed=3)


@pytest.fixture
def dense(model_config):
  """The quickest to compile."""
  stack = StackConfig(num_layers=1, mlp_dims=(7,))
  return model_config(encoder=stack, decoder=stack)


@pytest.fixture
def batch(space):
  """Rows of en-de, fr-en, fr-en with 3, 1 and 4 target tokens."""
  targets = np.array(
    [[5, 9, 1, 0, 0], [1, 0, 0, 0, 0], [7, 7, 8, 1, 0]], np.int32
  )
  sources = np.array([[3, 6, 1, 0], [4, 1, 0, 0], [4, 12, 11, 1]], np.int32)
  en, de, fr = map(space.language_id, ("en", "de", "fr"))
  arrays = {
    "encoder_input_tokens": sources,
    "decoder_input_tokens": np.pad(targets, ((0, 0), (1, 0)))[:, :-1],
    "decoder_target_tokens": targets,
    "decoder_loss_weights": (targets > 0).astype(np.float32),
    "source_language": np.array([en, fr, fr], np.int32),
    "target_language": np.array([de, en, en], np.int32),
  }
  return {name: jnp.asarray(array) for name, array in arrays.items()}

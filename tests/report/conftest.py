"""Runs that nobody trained: a checkpoint of random parameters, and a log."""

import json

import orbax.checkpoint as ocp
import pytest

from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.run_directory import Run, open_run_directory
from taskmoe_jax.vocabulary import Vocabulary

PAIRS = ("en-de", "de-en", "en-fr", "fr-en")
STEP = 7


def _stack(granularity):
  """A dense and an MoE layer, twice; dense alone for None."""
  if granularity is None:
    return StackConfig(num_layers=2, mlp_dims=(7,))
  moe = MoeConfig(
    granularity=granularity,
    num_experts=5,
    num_selected=2,
    expert_mlp_dim=6,
    dispatch="auto",
    capacity_factor=2.0,
    group_size=64,
    balance_loss_weight=0.01,
    z_loss_weight=0.001,
    word_table="hashed",
    num_candidates=3,
  )
  return StackConfig(num_layers=4, mlp_dims=(7,), moe=moe)


@pytest.fixture(scope="session")
def model_of():
  """Makes the config of a tiny model, by the granularity of its stacks."""
  return lambda encoder, decoder: ModelConfig(
    vocab_size=300,
    embed_dim=8,
    num_heads=2,
    head_dim=3,
    activation="relu",
    embeddings="one",
    encoder=_stack(encoder),
    decoder=_stack(decoder),
  )


@pytest.fixture
def run_of(model_of, small_vocabulary, random_params, tmp_path):
  """Makes a run directory; returns it, its run and its parameters."""

  def make(encoder, decoder, reports=()):
    folder = tmp_path / "run"
    space = TaskSpace.from_pairs(PAIRS, "target")
    model = model_of(encoder, decoder)
    run = Run(model, space, Vocabulary.load(small_vocabulary), 0)
    open_run_directory(folder, run, "# A recipe with <angles>.\n", {})
    params = random_params(Transformer(model, len(space.tasks)))
    with ocp.StandardCheckpointer() as checkpointer:
      checkpointer.save(folder / "checkpoints" / str(STEP) / "params", params)
    if reports:
      lines = "".join(f"{json.dumps(report)}\n" for report in reports)
      (folder / "metrics.jsonl").write_text(lines)
    return folder, run, params

  return make

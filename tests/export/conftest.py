"""Mixtures of random weights, made without compiling anything."""

import io

import pytest
import sentencepiece

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, UNK_ID, Vocabulary

PAIRS = ("en-de", "de-en", "en-fr", "fr-en")


@pytest.fixture(autouse=True)
def _quick(quick_compilation):
  pass


@pytest.fixture(scope="session")
def vocabulary():
  """The letters a to h, and three target symbols."""
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["abcdefgh"] * 3),
    model_writer=model,
    model_type="char",
    vocab_size=15,
    user_defined_symbols=["<2de>", "<2en>", "<2fr>"],
    pad_id=PAD_ID,
    eos_id=EOS_ID,
    unk_id=UNK_ID,
    bos_id=-1,
    minloglevel=2,
  )
  return Vocabulary(model.getvalue())


@pytest.fixture(scope="session")
def mixture_of(vocabulary, random_params):
  """Makes a translator; both stacks have a dense and an MoE layer, twice."""

  def stack(granularity):
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

  def make(encoder="task", decoder="task", *, task_by="target", **changes):
    settings = {
      "vocab_size": 17,
      "embed_dim": 8,
      "num_heads": 2,
      "head_dim": 3,
      "activation": "relu",
      "embeddings": "one",
      "encoder": stack(encoder),
      "decoder": stack(decoder),
      **changes,
    }
    config = ModelConfig(**settings)
    space = TaskSpace.from_pairs(PAIRS, task_by)
    params = random_params(Transformer(config, len(space.tasks)))
    return Translator(config, params, space, vocabulary)

  return make


@pytest.fixture
def samples():
  """Sentences with references of every pair."""
  return {
    "en-de": [("abc", "cba"), ("hg fe", "efgh")],
    "de-en": [("dad", "add"), ("f", "bead")],
    "en-fr": [("abcdefgh", "ha")],
    "fr-en": [("cab", "bac"), ("a", "b"), ("gaga", "head")],
  }

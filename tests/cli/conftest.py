"""What the tests of commands share, such as a bundle of random parameters."""

import io
import sys

import jax
import pytest
from flax import linen as nn

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import Manifest
from taskmoe_jax.cli.main import main
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary
from tests.trained_pieces import trained_pieces


@pytest.fixture
def fails(capsys):
  """Runs a command that must print one line, and nothing else."""

  def run(argv: list[str], message: str) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"taskmoe: error: {message}\n")

  return run


PIECES = 15
# Of random parameters whose translations differ from line to line.
_SEED = 8


def vocabulary() -> Vocabulary:
  return Vocabulary(
    trained_pieces(
      ["the cat and the hat"] * 20,
      vocab_size=PIECES,
      symbols=["<2de>", "<2fr>"],
    )
  )


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory) -> str:
  """A dense model of random parameters, from English to two languages."""
  stack = StackConfig(num_layers=1, mlp_dims=(12,))
  config = ModelConfig(
    vocab_size=PIECES,
    embed_dim=8,
    num_heads=2,
    head_dim=6,
    activation=Activation.RELU,
    embeddings=Embeddings.ONE,
    encoder=stack,
    decoder=stack,
  )
  space = TaskSpace(("en", "de", "fr"), ("en-de", "en-fr"))
  shapes = nn.unbox(parameters.abstract_params(Transformer(config, 2)))
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(_SEED), len(leaves))
  params = tree.unflatten(
    jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  )
  target = tmp_path_factory.mktemp("bundles") / "small"
  with bundle.new_folder(target, overwrite=False) as folder:
    bundle.write_model(folder, Translator(config, params, space, vocabulary()))
    bundle.write_manifest(folder, Manifest(task="de"))
  return str(target)


@pytest.fixture
def stdin(monkeypatch):
  """Gives bytes to standard input."""
  return lambda data: monkeypatch.setattr(
    sys, "stdin", io.TextIOWrapper(io.BytesIO(data))
  )

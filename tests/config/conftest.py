"""A gin folder in the layout of ours, in front of which the tests stand."""

import pathlib

import pytest

from taskmoe_jax.config import gin_files

BASE = """\
from __gin__ import dynamic_registration
from fakes import config

ENCODER = 'token'
DECODER = 'token'
NUM_LAYERS = 6
MODEL = @config.ModelConfig()
config.ModelConfig.encoder = @encoder/config.StackConfig()
config.ModelConfig.decoder = @decoder/config.StackConfig()
config.ModelConfig.embed_dim = 32
config.StackConfig:
  num_layers = %NUM_LAYERS
  mlp_dims = (64, 48)
  moe = @config.MoeConfig()
config.MoeConfig.num_experts = 4
encoder/config.MoeConfig.granularity = %ENCODER
decoder/config.MoeConfig.granularity = %DECODER
"""
TASK = """\
from __gin__ import dynamic_registration
from fakes import loop

include 'models/base.gin'

ENCODER = 'task'
NUM_STEPS = 100
RUN_DIR = %gin.REQUIRED
BEAM_SIZE = 5
loop.train.model = %MODEL
loop.train.num_steps = %NUM_STEPS
loop.evaluate.beam_size = %BEAM_SIZE
loop.evaluate.run_dir = %RUN_DIR
"""


@pytest.fixture(autouse=True)
def gin_folder(tmp_path, monkeypatch) -> pathlib.Path:
  """Holds models/base.gin and recipes/task.gin, and is found from anywhere."""
  folder = tmp_path / "gin"
  for name, text in (("models/base.gin", BASE), ("recipes/task.gin", TASK)):
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text(text)
  elsewhere = tmp_path / "elsewhere"
  elsewhere.mkdir()
  monkeypatch.chdir(elsewhere)
  monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)
  monkeypatch.setattr(gin_files, "gin_folder", lambda: folder)
  return folder


@pytest.fixture
def load():
  """Loads as the commands do, for three top functions; `crash` is none."""

  def load(*flags: str, files=("recipes/task.gin",)):
    tops = ("fakes.loop.train", "fakes.loop.evaluate", "fakes.loop.anything")
    gin_files.load(files, flags, top_functions=tops)

  return load


@pytest.fixture
def write():
  """Writes a gin file into the working directory and returns its name.

  It begins with the imports, so that its first own line is line 4.
  """

  def write(text: str, name: str = "own.gin") -> str:
    pathlib.Path(name).write_text(
      "from __gin__ import dynamic_registration\n"
      "from fakes import config\n"
      f"from fakes import loop\n{text}\n"
    )
    return name

  return write


@pytest.fixture
def wmt_data(monkeypatch):
  """What TFDS and sacrebleu would give, if they had the data here."""
  from taskmoe_jax.tasks import wmt_builders, wmt_sources

  lines = [("ein Haus", "a house")]
  monkeypatch.setattr(wmt_builders, "check_prepared", lambda *_: None)
  monkeypatch.setattr(wmt_sources, "_read", lambda *_: lines)
  monkeypatch.setattr(wmt_sources, "_test_set", lambda *_: lambda: lines)

"""Every test sees eight CPU devices, so that none skips for lack of them.

There is no persistent compilation cache: a run must not depend on the one
before it. `make quick` and `make changed` name one, which tests do not see that
compare two runs bit for bit (marked `bit_for_bit`).

Here are also a corpus, a vocabulary and a recipe with which all commands run in
seconds. Rooms that need no TensorFlow do not wait for it: it is imported only
in the fixtures.
"""

import atexit
import gc
import importlib.metadata
import itertools
import os
import pathlib
import shutil
import tempfile

# Before jax is imported, and in the environment, so that the programs which
# tests start see the same devices.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = " ".join(
  [
    os.environ.get("XLA_FLAGS", ""),
    "--xla_force_host_platform_device_count=8",
    # Fusions by the older emitter, and a program in one piece: half of the
    # time that compilation takes otherwise. A jaxlib that does not know a flag
    # aborts, so only the series that this was tried with gets them.
    *(
      (
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
      )
      if importlib.metadata.version("jaxlib").startswith("0.10.")
      else ()
    ),
  ]
)
# Programs that run slower, and are compiled in a third of the time: here they
# are small, and run a few steps.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
# No compiled programs of other runs, but for the loop of a contributor.
os.environ["JAX_COMPILATION_CACHE_DIR"] = os.environ.get(
  "TASKMOE_TEST_PROGRAMS", ""
)
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
# TensorFlow greets on import.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Text that tests read is not to stay in the user's cache.
os.environ["TASKMOE_CACHE"] = tempfile.mkdtemp(prefix="taskmoe-test-cache-")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.experimental.compilation_cache import compilation_cache

# The hooks of a plugin of ours.
from tests.cpu_limit import pytest_addoption, pytest_runtest_call  # noqa: F401

# A forgotten axis must not broadcast. Implicit dtype promotion stays allowed:
# with jax_numpy_dtype_promotion="strict" optax 0.2.8's Adam (float ** int32)
# and flax 0.12.8's norms (bfloat16 input, float32 scale) raise.
jax.config.update("jax_numpy_rank_promotion", "raise")

atexit.register(shutil.rmtree, os.environ["TASKMOE_CACHE"], True)

# The kernel lets a process have 65530 mappings, and a compiled program is three
# of them. When none is left, the next compilation is a segmentation fault.
_MANY_MAPPINGS = 20_000

# Whoever uses one of these compiles a model or runs whole commands: its tests
# are not those of `make quick`.
_SLOW_FIXTURES = {
  *("finished_run", "small_recipe", "small_vocabulary", "taskmoe"),
  *("steps_compiled_once", "bundle_folder"),
}

_WORDS = {
  "en": ("the one", "red old big", "house dog tree day"),
  "de": ("das ein", "rote alte große", "Haus Tier Holz Jahr"),
  "fr": ("le un", "rouge vieux grand", "toit chien bois an"),
}
_RECIPE = """\
from __gin__ import dynamic_registration

from taskmoe_jax.models import config
from taskmoe_jax.train import optimizers
from taskmoe_jax.train import schedules

include 'runs/train.gin'
include 'models/dense.gin'
include 'routing/moe.gin'
include 'mixtures/tsv.gin'
include 'meshes/data.gin'

RUN_DIR = %gin.REQUIRED
TSV_FOLDER = '{corpus}'
VOCABULARY = '{vocabulary}'
VOCAB_SIZE = 296

config.ModelConfig.embed_dim = 16
config.ModelConfig.num_heads = 2
config.ModelConfig.head_dim = 6
config.StackConfig.num_layers = 2
config.StackConfig.mlp_dims = (24,)
NUM_EXPERTS = 4
EXPERT_MLP_DIM = 32
DROPOUT_RATE = 0.0

BATCH_SIZE = 16
ROWS_PER_TASK_GROUP = 2
SOURCE_LENGTH = 24
TARGET_LENGTH = 20
TRAIN_STEPS = 2
LOG_EVERY = 1
CHECKPOINT_EVERY = 2
TEST_EXAMPLES = 2

OPTIMIZER = @optimizers.adafactor
optimizers.adafactor.learning_rate = @schedules.rsqrt_schedule()
optimizers.adafactor.parameter_scale = True
schedules.rsqrt_schedule.learning_rate = 1.0
schedules.rsqrt_schedule.warmup_steps = 100
"""


def pytest_collection_modifyitems(items):
  """Marks as `slow` what is, by its fixtures or as it says that it costs."""
  for item in items:
    if _SLOW_FIXTURES & set(item.fixturenames) or item.get_closest_marker(
      "expensive"
    ):
      item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True)
def _compiled_anew(request, monkeypatch):
  """Tests of bit-for-bit equality find no compiled program of another run."""
  if request.node.get_closest_marker("bit_for_bit") is None:
    yield
    return
  # For the programs that it starts, and for this one.
  monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "")
  before = jax.config.jax_compilation_cache_dir
  jax.config.update("jax_compilation_cache_dir", None)
  compilation_cache.reset_cache()
  yield
  jax.config.update("jax_compilation_cache_dir", before)
  compilation_cache.reset_cache()


@pytest.fixture(scope="module", autouse=True)
def _forget_programs():
  """Keeps the compiled programs of a worker below what the kernel allows."""
  yield
  maps = pathlib.Path("/proc/self/maps")
  if maps.exists() and maps.read_bytes().count(b"\n") > _MANY_MAPPINGS:
    jax.clear_caches()
    gc.collect()


@pytest.fixture(scope="session")
def small_corpus(tmp_path_factory):
  """A folder of English with German and with French, in toy sentences."""
  folder = tmp_path_factory.mktemp("corpus")
  sentences = {
    language: [
      " ".join(words) for words in itertools.product(*map(str.split, choices))
    ]
    for language, choices in _WORDS.items()
  }
  for language in ("de", "fr"):
    lines = [
      f"{english} {number}\t{other} {number}\n"
      for number in (7, 25)
      for english, other in zip(
        sentences["en"], sentences[language], strict=True
      )
    ]
    parts = {"train": lines[:36], "dev": lines[36:42], "test": lines[42:]}
    for part, chosen in parts.items():
      (folder / f"en-{language}.{part}.tsv").write_text("".join(chosen))
  return folder


@pytest.fixture(scope="session")
def small_vocabulary(small_corpus, tmp_path_factory):
  """Path of a vocabulary of the corpus."""
  from taskmoe_jax.data.opening import open_corpus
  from taskmoe_jax.data.text.vocabulary_training import train_vocabulary
  from taskmoe_jax.tasks.tsv import tsv

  mixture = tsv(str(small_corpus), vocabulary=None, temperature=1.0)
  path = tmp_path_factory.mktemp("vocabulary") / "small.model"
  path.write_bytes(
    train_vocabulary(open_corpus(mixture), size=293, num_sentences=200, seed=0)
  )
  return path


@pytest.fixture(scope="session")
def small_recipe(small_corpus, small_vocabulary, tmp_path_factory):
  """Path of a recipe that needs only RUN_DIR."""
  path = tmp_path_factory.mktemp("recipe") / "small.gin"
  path.write_text(
    _RECIPE.format(corpus=small_corpus, vocabulary=small_vocabulary)
  )
  return path


@pytest.fixture(scope="session")
def taskmoe():
  """Runs a command that must succeed."""
  from taskmoe_jax.cli.main import main

  def run(*argv):
    assert main([str(argument) for argument in argv]) == 0, argv

  return run


@pytest.fixture
def use_devices(monkeypatch):
  """Pretends that there are only so many devices."""
  devices = jax.devices()
  return lambda number: monkeypatch.setattr(
    jax, "devices", lambda *_: devices[:number]
  )


@pytest.fixture(scope="session")
def random_params():
  """Draws a model's parameters without compiling anything."""
  from taskmoe_jax.models.parameters import abstract_params

  def draw(model):
    generator = np.random.default_rng(7)
    return jax.tree.map(
      lambda leaf: jnp.asarray(
        0.5 * generator.normal(size=leaf.shape), jnp.float32
      ),
      nn.unbox(abstract_params(model)),
    )

  return draw


@pytest.fixture(scope="session")
def tiny_model():
  """Makes the config of a tiny model, by the granularity of its stacks.

  Both have a dense and an MoE layer, twice; a dense layer alone for None.
  """
  from taskmoe_jax.models.config import ModelConfig, StackConfig
  from taskmoe_jax.moe.config import Dispatch, MoeConfig
  from taskmoe_jax.moe.granularity import GRANULARITIES
  from taskmoe_jax.moe.tables import WordTable

  def stack(granularity):
    if granularity is None:
      return StackConfig(num_layers=2, mlp_dims=(7,))
    moe = MoeConfig(
      granularity=GRANULARITIES[granularity],
      num_experts=5,
      num_selected=2,
      expert_mlp_dim=6,
      dispatch=Dispatch.AUTO,
      capacity_factor=2.0,
      group_size=64,
      balance_loss_weight=0.01,
      z_loss_weight=0.001,
      word_table=WordTable.HASHED,
      num_candidates=3,
    )
    return StackConfig(num_layers=4, mlp_dims=(7,), moe=moe)

  def make(encoder, decoder, /, *, vocab_size, **changes):
    settings = {
      "embed_dim": 8,
      "num_heads": 2,
      "head_dim": 3,
      "activation": "relu",
      "embeddings": "one",
      "encoder": stack(encoder),
      "decoder": stack(decoder),
      **changes,
    }
    return ModelConfig.from_dict({"vocab_size": vocab_size, **settings})

  return make


@pytest.fixture(scope="session")
def finished_run(small_recipe, taskmoe, tmp_path_factory):
  """A run of one step, routed by task in both stacks; not to be changed."""
  run_dir = tmp_path_factory.mktemp("finished") / "run"
  taskmoe(
    "train",
    f"--gin_file={small_recipe}",
    f"--gin.RUN_DIR={run_dir}",
    "--gin.config.StackConfig.mlp_dims=()",
    "--gin.ENCODER=task",
    "--gin.TRAIN_STEPS=1",
  )
  return run_dir

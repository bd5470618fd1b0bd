"""Mixtures of random weights, and a format that needs no engine."""

import dataclasses
import importlib.metadata
import json
import os
import subprocess
import sys
import types
import venv

import jaxtyping
import numpy as np
import packaging.requirements
import pytest

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats import format as named_formats
from taskmoe_jax.export.formats.format import FormatCheck
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.task_space import TaskSpace
from tests import random_mixtures

mixture_of = random_mixtures.mixture_of
samples = random_mixtures.samples
vocabulary = random_mixtures.vocabulary


@pytest.fixture(scope="session")
def sub_network(tiny_model, vocabulary, random_params):
  """Makes a dense translator of two pairs, with layers of many widths.

  The width of its heads is not D/N, and its table has ids without a piece.
  """

  def make(activation="relu", **changes):
    config = tiny_model(
      None,
      None,
      vocab_size=17,
      activation=activation,
      encoder=StackConfig(num_layers=2, mlp_dims=(7, 12)),
      decoder=StackConfig(num_layers=2, mlp_dims=(5, 9)),
      **changes,
    )
    params = random_params(Transformer(config, 1))
    space = TaskSpace.from_pairs(("en-de", "fr-de"), "target")
    return Translator(config, params, space, vocabulary)

  return make


@pytest.fixture(scope="session")
def german():
  """Sentences for a sub-network; some letters are unknown to its vocabulary."""
  return {
    "en-de": [("abc", "cba"), ("hg</s> fe", "ef</s>gh"), ("hh xyz", "ab")],
    "fr-de": [("dad", "add"), ("f", "bead"), ("xa", "a"), ("cab d", "h")],
  }


@pytest.fixture(scope="session")
def upside_down():
  """Makes a translator of another, with its table of pieces upside down."""

  def make(translator):
    table = np.flip(translator.params["embedding"]["table"], 0)
    params = {**translator.params, "embedding": {"table": table}}
    return Translator(
      translator.model, params, translator.task_space, translator.vocabulary
    )

  return make


@pytest.fixture(scope="module")
def open_sizes():
  """Lets programs be traced for StableHLO.

  A size that is left open is no int, which the checks of shapes refuse.
  """
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def fresh_environment(tmp_path_factory):
  """Makes a virtual environment that has some packages and what they need.

  Nothing is downloaded: it has links to what is installed here.
  """

  def make(*packages):
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder, with_pip=False)
    (site,) = folder.glob("lib/python*/site-packages")
    missing, linked = list(packages), set()
    while missing:
      name = missing.pop()
      if name in linked:
        continue
      linked.add(name)
      found = importlib.metadata.distribution(name)
      for top in {path.parts[0] for path in found.files} - {
        "..",
        "__pycache__",
      }:
        (site / top).symlink_to(found.locate_file(top))
      needed = map(packaging.requirements.Requirement, found.requires or ())
      missing += [
        need.name
        for need in needed
        if need.marker is None or need.marker.evaluate({"extra": ""})
      ]
    return folder / "bin" / "python"

  return make


@pytest.fixture(scope="session")
def run_readme():
  """Runs what a folder's README says, and translates one line by it.

  The folder has been moved, and taskmoe_jax and its frameworks are not there.
  """

  def run(python, folder, line):
    text = (folder / "README.md").read_text()
    program = text.split("```python\n")[1].split("```")[0]
    program += (
      "import importlib.util, json\n"
      "for name in ('taskmoe_jax', 'flax', 'torch', 'tensorflow', 'etils'):\n"
      "  assert importlib.util.find_spec(name) is None, name\n"
      f"print(json.dumps(translate([{line!r}])))\n"
    )
    environment = {
      name: value
      for name, value in os.environ.items()
      if name not in ("PYTHONPATH", "XLA_FLAGS")
    }
    found = subprocess.run(
      [python, "-I", "-c", f"import sys; sys.path.insert(0, '')\n{program}"],
      cwd=folder,
      env=environment,
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    )
    (translation,) = json.loads(found.stdout.splitlines()[-1])
    return translation

  return run


class Plain:
  """Writes what it is told; refuses a model of two heads if it should."""

  def __init__(self):
    self.refuses = self.fails = False

  def refuse(self, model):
    if self.refuses:
      raise TaskMoeError(f"plain has no {model.num_heads} heads.")

  def write(self, translator, folder, about):
    assert list(folder.iterdir()) == []
    (folder / "deep").mkdir()
    (folder / "deep" / "model.bin").write_bytes(b"weights")
    about = dataclasses.asdict(about)
    (folder / "about.json").write_text(json.dumps(about))

  def check(self, expected, folder):
    if self.fails:
      raise TaskMoeError("plain 3 does not compute what the bundle does.")
    rows = sum(map(len, expected.samples.values()))
    return FormatCheck("plain 3", rows, 0.0, rows, True)


@pytest.fixture
def plain(monkeypatch):
  """Registers a format that needs no engine, by two names."""
  module = types.SimpleNamespace(PLAIN=Plain())
  monkeypatch.setitem(sys.modules, "plain_format", module)
  for name in ("plain", "other"):
    monkeypatch.setitem(named_formats._WRITERS, name, "plain_format:PLAIN")
  return module.PLAIN

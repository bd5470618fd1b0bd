"""Folders that are written, loaded by JAX alone, and compared."""

import importlib.util
import io
import json
import shutil
import sys

import jax
import numpy as np
import pytest
from etils import epath
from safetensors import numpy as safetensors

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.format import Expected, formats_named
from taskmoe_jax.export.formats.stablehlo import runner
from taskmoe_jax.export.formats.stablehlo.writer import STABLEHLO

pytestmark = pytest.mark.usefixtures("open_sizes")

ABOUT = About("de", "runs/a", 70, (5000, 1234), {})


@pytest.fixture(scope="module")
def translator(sub_network):
  return sub_network()


@pytest.fixture(scope="module")
def expected(translator, german):
  return Expected(translator, german)


def _write(translator, folder):
  """A bundle's own files, and those of the format in a folder below."""
  bundle.write_model(folder, translator)
  below = folder / "stablehlo"
  below.mkdir()
  STABLEHLO.write(translator, below, ABOUT)
  return below


@pytest.fixture(scope="module")
def folder(translator, tmp_path_factory):
  """The format's folder; not to be changed."""
  return _write(translator, epath.Path(tmp_path_factory.mktemp("bundle")))


def test_its_name():
  assert formats_named("stablehlo") == {"stablehlo": STABLEHLO}


@pytest.mark.expensive("it compiles models")
def test_the_programs_compute_what_the_bundle_does(expected, folder):
  check = STABLEHLO.check(expected, folder)
  assert check.engine == f"jax {jax.__version__}"
  assert check.sentences == check.identical_translations == 7
  assert check.max_score_difference < 1e-4
  assert check.exact


@pytest.mark.slow
def test_other_parameters_are_found(expected, upside_down, folder, tmp_path):
  moved = epath.Path(tmp_path) / "bundle"
  shutil.copytree(folder.parent, moved)
  bundle.write_model(moved, upside_down(expected.bundle))
  with pytest.raises(TaskMoeError, match=r"jax .* does not compute what the b"):
    STABLEHLO.check(expected, moved / "stablehlo")


def test_no_file_holds_the_parameters(folder):
  names = {path.name for path in folder.iterdir()}
  programs = {"start.bin", "step.bin", "greedy.bin"}
  assert names == programs | {"programs.json", "translate.py", "README.md"}
  about = json.loads((folder / "programs.json").read_text())
  assert about["platforms"] == ["cpu", "cuda", "tpu"]
  assert ["decoder/blocks/layer_1/mlp/wi", 0] in about["parameters"]
  assert ["encoder/blocks/layer_1/mlp/wi", None] in about["parameters"]
  for name in programs:
    found = jax.export.deserialize(bytearray((folder / name).read_bytes()))
    assert found.platforms == ("cpu", "cuda", "tpu")


def test_a_bundle_without_float32_is_not_read(expected, tmp_path):
  """Such as one that is rounded; and of another vocabulary."""
  path = epath.Path(tmp_path)
  bundle.write_model(path, expected.bundle)
  arrays = safetensors.load((path / "model.safetensors").read_bytes())
  arrays["embedding/table"] = arrays["embedding/table"].astype(np.float16)
  (path / "model.safetensors").write_bytes(safetensors.save(arrays))
  (path / "vocabulary.model").write_bytes(b"another")
  folder = path / "stablehlo"
  folder.mkdir()
  STABLEHLO.write(expected.bundle, folder, ABOUT)
  assert STABLEHLO.check(expected, folder).identical_translations == 7


@pytest.mark.slow
def test_it_translates_elsewhere(
  translator, folder, fresh_environment, run_readme, tmp_path
):
  python = fresh_environment("jax", "flatbuffers", "sentencepiece")
  moved = tmp_path / "moved"
  shutil.copytree(folder.parent, moved)
  (expected,) = translator.translate(["hg </s>fe"], "en-de")
  assert run_readme(python, moved / "stablehlo", "hg </s>fe") == expected


@pytest.mark.slow
def test_the_program_reads_lines(translator, folder, monkeypatch, capsys):
  lines = ["abc", "", "hg fe", "d"]
  monkeypatch.setattr(sys, "stdin", io.StringIO("abc\n\nhg fe\nd"))
  runner.main([f"--folder={folder}", "--batch_size=2"])
  expected = translator.translate(lines, "en-de", batch_size=2)
  assert capsys.readouterr().out == "\n".join(expected) + "\n"


def test_what_the_program_refuses(folder, tmp_path):
  with pytest.raises(ValueError, match=r"'<2fr>' is not among \['<2de>'\]"):
    runner.Translator(folder).translate(["a"], "<2fr>")
  alone = tmp_path / "alone"
  shutil.copytree(folder, alone)
  with pytest.raises(FileNotFoundError, match=r"vocabulary.model is neither"):
    runner.Translator(alone)
  for name in ("vocabulary.model", "model.safetensors"):
    shutil.copy(folder.parent / name, alone)
  assert runner.Translator(alone).symbols == ["<2de>"]


def test_readme(folder):
  text = (folder / "README.md").read_text()
  assert "Translates `en-de`, `fr-de`; from run `runs/a`, step 70." in text
  assert f"exported by JAX {jax.__version__}. JAX reads exports for" in text
  assert "six months" in text


@pytest.mark.slow
def test_what_is_refused_at_once(mixture_of, monkeypatch):
  STABLEHLO.refuse(mixture_of("task", "static").model)
  with pytest.raises(
    TaskMoeError, match=r"decoder is routed by token.*leave stablehlo out"
  ):
    STABLEHLO.refuse(mixture_of("task", "token").model)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(TaskMoeError, match=r"flatbuffers, which is not inst"):
    STABLEHLO.refuse(mixture_of("task", "task").model)


def test_a_mixture_is_not_written(mixture_of, tmp_path):
  folder = epath.Path(tmp_path)
  with pytest.raises(
    TaskMoeError, match=r"several tasks .* open sizes does not support.*--tasks"
  ):
    STABLEHLO.write(mixture_of("task", "task"), folder, ABOUT)
  assert list(folder.iterdir()) == []

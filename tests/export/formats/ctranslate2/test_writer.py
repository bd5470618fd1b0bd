"""Folders that are written, loaded by CTranslate2, and compared."""

import importlib.util
import json
import re
import shutil

import jax
import numpy as np
import pytest
from etils import epath

from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.ctranslate2.engine import CTranslate2Engine
from taskmoe_jax.export.formats.ctranslate2.writer import (
  FLOAT16,
  FLOAT32,
  INT8,
  SEARCH,
)
from taskmoe_jax.export.formats.engine_check import score_differences
from taskmoe_jax.export.formats.format import Expected, formats_named

ABOUT = About("de", "runs/a", 70, (5000, 1234), {})
FORMATS = (FLOAT32, FLOAT16, INT8)


@pytest.fixture(scope="module")
def translator(sub_network):
  return sub_network()


@pytest.fixture(scope="module")
def expected(translator, german):
  return Expected(translator, german)


@pytest.fixture(scope="module")
def folders(translator, tmp_path_factory):
  """What each format has written; not to be changed."""
  folders = {}
  for writer in FORMATS:
    folders[writer] = epath.Path(tmp_path_factory.mktemp(writer.name))
    writer.write(translator, folders[writer], ABOUT)
  return folders


def test_their_names():
  named = formats_named("ctranslate2,ctranslate2_float16,ctranslate2_int8")
  assert named == {writer.name: writer for writer in FORMATS}


@pytest.mark.expensive("it compiles models")
def test_ctranslate2_computes_what_the_bundle_does(expected, folders):
  check = FLOAT32.check(expected, folders[FLOAT32])
  assert check.engine.startswith("ctranslate2 4.")
  assert check.sentences == check.identical_translations == 7
  assert check.max_score_difference < 1e-4
  assert check.exact


@pytest.mark.slow
def test_gated_with_three_tables(sub_network, german, tmp_path):
  translator = sub_network("gated_gelu", embeddings="three")
  folder = epath.Path(tmp_path)
  FLOAT32.write(translator, folder, ABOUT)
  found = score_differences(
    Expected(translator, german), CTranslate2Engine(folder), "en-de"
  )
  assert np.max(found) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("writer", [FLOAT16, INT8])
def test_formats_that_are_not_exact(expected, folders, writer):
  check = writer.check(expected, folders[writer])
  assert not check.exact
  assert 0 < check.max_score_difference < 1


def test_rounding_leaves_the_bundle_as_it_is(sub_network, tmp_path):
  translator = sub_network()
  before = jax.tree.map(np.array, translator.params)
  # NumPy's arrays, as a file has them, are what could be written into.
  translator.params = jax.tree.map(np.copy, before)
  INT8.write(translator, epath.Path(tmp_path), ABOUT)
  jax.tree.map(np.testing.assert_array_equal, before, translator.params)


def test_every_number_is_stored_once(translator, folders):
  """No layer is padded, and no table repeated."""
  numbers = sum(leaf.size for leaf in jax.tree.leaves(translator.params))
  sizes = {
    writer: (folder / "model.bin").stat().length
    for writer, folder in folders.items()
  }
  # The files differ in nothing else.
  assert sizes[FLOAT32] - sizes[FLOAT16] == (4 - 2) * numbers
  assert sizes[INT8] < sizes[FLOAT32]


@pytest.mark.parametrize(
  ("writer", "message"),
  [
    (FLOAT32, r"scores of references differ by up to .*rounding"),
    (FLOAT16, r"differ by .* a token, of which rounding explains 0.01\."),
    (INT8, r"differ by .* a token, of which rounding explains 0.2\. Nothing"),
  ],
)
def test_other_weights_are_found(
  expected, upside_down, tmp_path, writer, message
):
  folder = epath.Path(tmp_path)
  writer.write(upside_down(expected.bundle), folder, ABOUT)
  with pytest.raises(TaskMoeError, match=message):
    writer.check(expected, folder)


def test_names_and_settings(translator, folders):
  folder = folders[FLOAT16]
  names = json.loads((folder / "shared_vocabulary.json").read_text())
  assert names[:3] == ["<pad>", "</s>", "<unk>"]
  assert "<2de>" in names
  assert names[-2:] == ["<unused_15>", "<unused_16>"]
  config = json.loads((folder / "config.json").read_text())
  assert config["add_source_eos"]
  assert config["decoder_start_token"] == "<pad>"
  assert config["layer_norm_epsilon"] == 1e-6
  assert config["stored_as"] == "float16"
  spiece = (folder / "spiece.model").read_bytes()
  assert spiece == translator.vocabulary.model


def test_readme(folders):
  text = (folders[INT8] / "README.md").read_text()
  assert "Translates `en-de`, `fr-de`. Stored as int8;" in text
  assert "run `runs/a`, step 70" in text
  assert 'symbol="<2de>"' in text
  assert re.search(r"\(`<2de>`\)", text)


@pytest.mark.slow
def test_it_translates_elsewhere(
  folders, fresh_environment, run_readme, tmp_path
):
  python = fresh_environment("ctranslate2", "sentencepiece")
  moved = tmp_path / "moved"
  shutil.copytree(folders[FLOAT32], moved)
  (here,) = CTranslate2Engine(folders[FLOAT32]).translate(
    ["hg </s>fe"], "en-de", SEARCH, 256
  )
  assert run_readme(python, moved, "hg </s>fe") == here.text


@pytest.mark.slow
def test_what_is_refused_at_once(mixture_of, monkeypatch):
  INT8.refuse(mixture_of("task", "static").model)
  INT8.refuse(mixture_of(embeddings="three").model)
  with pytest.raises(
    TaskMoeError,
    match=r"encoder is routed by token.*ENCODER.*leave ctranslate2_int8",
  ):
    INT8.refuse(mixture_of("token", "task").model)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(TaskMoeError, match=r"ctranslate2, which is not inst"):
    INT8.refuse(mixture_of("task", "task").model)


def test_a_mixture_is_not_written(mixture_of, tmp_path):
  folder = epath.Path(tmp_path)
  with pytest.raises(
    TaskMoeError,
    match=r"several tasks .* CTranslate2 does not support.*--tasks",
  ):
    FLOAT32.write(mixture_of("task", "task"), folder, ABOUT)
  assert list(folder.iterdir()) == []

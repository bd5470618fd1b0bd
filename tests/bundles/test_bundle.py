import json

import jax
import numpy as np
import pytest

import taskmoe_jax
from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import Manifest
from taskmoe_jax.errors import TaskMoeError

FILES = ("model.safetensors", "config.json", "vocabulary.model")


@pytest.fixture(scope="module")
def translator(mixture_of):
  return mixture_of("token", "sentence")


@pytest.fixture
def folder(translator, tmp_path):
  with bundle.new_folder(tmp_path / "de", overwrite=False) as folder:
    bundle.write_model(folder, translator)
    bundle.write_manifest(folder, Manifest(task="de"))
  return tmp_path / "de"


@pytest.mark.slow
def test_what_is_written_is_loaded(folder, translator):
  assert {path.name for path in folder.iterdir()} == {*FILES, "manifest.json"}
  assert bundle.is_bundle(folder)
  loaded = taskmoe_jax.load(folder)
  assert loaded.model == translator.model
  assert loaded.task_space == translator.task_space
  assert loaded.vocabulary.model == translator.vocabulary.model
  jax.tree.map(np.testing.assert_array_equal, loaded.params, translator.params)
  manifest = bundle.read_manifest(folder)
  assert manifest.task == "de"
  assert manifest.sha256.keys() == set(FILES)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_noticed(folder, name):
  data = bytearray((folder / name).read_bytes())
  data[len(data) // 2] ^= 1
  (folder / name).write_bytes(data)
  with pytest.raises(
    TaskMoeError,
    match=rf"{name}' is damaged: its SHA-256 is [0-9a-f]{{12}}\.\.\., and the"
    r" manifest says [0-9a-f]{12}\.\.\.\. Export it again\.",
  ):
    taskmoe_jax.load(folder)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(folder, name):
  (folder / name).unlink()
  with pytest.raises(TaskMoeError, match=f"/de' lacks its file {name}"):
    taskmoe_jax.load(folder)


@pytest.mark.parametrize(
  "text", ['{"task": "de", "sha256"', "[]", '{"task": "de"}', "\xff"]
)
def test_a_damaged_manifest(folder, text):
  (folder / "manifest.json").write_bytes(text.encode("latin-1"))
  with pytest.raises(TaskMoeError, match=r"manifest\.json' is damaged: "):
    taskmoe_jax.load(folder)


def test_a_bundle_of_another_format(folder):
  path = folder / "manifest.json"
  manifest = json.loads(path.read_text())
  path.write_text(json.dumps({**manifest, "format": 2}))
  with pytest.raises(
    TaskMoeError, match=r"/de' is a bundle of format 2: accepted is 1\."
  ):
    taskmoe_jax.load(folder)


def test_a_manifest_without_a_checksum(folder):
  path = folder / "manifest.json"
  manifest = json.loads(path.read_text())
  del manifest["sha256"]["config.json"]
  path.write_text(json.dumps(manifest))
  with pytest.raises(TaskMoeError, match=r"config\.json' is damaged"):
    taskmoe_jax.load(folder)


def test_neither_a_bundle_nor_a_run(tmp_path):
  for path in (tmp_path, tmp_path / "nothing"):
    with pytest.raises(
      TaskMoeError,
      match=r"^'/.*' is neither a bundle \(it has no manifest\.json\) nor a run"
      r" directory \(no run\.json\)\. Name a folder",
    ):
      taskmoe_jax.load(path)
    with pytest.raises(
      TaskMoeError,
      match=r"is not a bundle: it has no manifest\.json\. Name a folder that"
      " `taskmoe export` has written",
    ):
      bundle.load_bundle(path)


def test_an_existing_folder_is_left_as_it_is(folder, translator):
  before = {path.name: path.read_bytes() for path in folder.iterdir()}
  with (
    pytest.raises(
      TaskMoeError,
      match=r"/de' exists and is left as it is\. Set --out to another folder,"
      r" or replace it with --overwrite\.",
    ),
    bundle.new_folder(folder, overwrite=False),
  ):
    raise AssertionError("must not get so far")
  assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
  with bundle.new_folder(folder, overwrite=True) as temporary:
    (temporary / "new").write_text("")
    assert before.keys() == {path.name for path in folder.iterdir()}
  assert [path.name for path in folder.iterdir()] == ["new"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_export_leaves_nothing(tmp_path, translator, error):
  def export():
    with bundle.new_folder(tmp_path / "export" / "de", overwrite=False) as new:
      bundle.write_model(new, translator)
      raise error

  with pytest.raises(error):
    export()
  assert list((tmp_path / "export").iterdir()) == []


def test_what_a_killed_export_left_is_replaced(tmp_path, translator):
  (tmp_path / "de.tmp").mkdir()
  (tmp_path / "de.tmp" / "old").write_text("")
  with bundle.new_folder(tmp_path / "de", overwrite=False) as folder:
    (folder / "new").write_text("")
  assert [path.name for path in tmp_path.rglob("*")] == ["de", "new"]


def test_what_was_being_replaced_is_not_lost(tmp_path):
  """Killed between two renames: the old folder has its name again."""
  (tmp_path / "de.replaced.tmp").mkdir()
  (tmp_path / "de.replaced.tmp" / "old").write_text("")
  with (
    pytest.raises(TaskMoeError, match="/de' exists and is left as it is"),
    bundle.new_folder(tmp_path / "de", overwrite=False),
  ):
    raise AssertionError("must not get so far")
  assert [path.name for path in tmp_path.rglob("*")] == ["de", "old"]


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with (
    pytest.raises(
      TaskMoeError,
      match=r"cannot write '.*/file/de' \(Not a directory\)\. Set --out to"
      " another folder",
    ),
    bundle.new_folder(tmp_path / "file" / "de", overwrite=False),
  ):
    raise AssertionError("must not get so far")

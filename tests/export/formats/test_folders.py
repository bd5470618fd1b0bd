"""Folders of formats in a bundle; the format here is one for the test."""

import json

import pytest

import taskmoe_jax
from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.bundle import check_bundles, damages
from taskmoe_jax.bundles.manifest import Manifest
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.folders import add_formats


@pytest.fixture
def run_dir(tmp_path, samples):
  folder = tmp_path / "run"
  folder.mkdir()
  (folder / "samples.json").write_text(json.dumps(samples))
  return folder


@pytest.fixture
def folder(mixture_of, tmp_path, run_dir, plain):
  with bundle.new_folder(tmp_path / "out" / "de", overwrite=False) as folder:
    bundle.write_model(folder, mixture_of("token", "sentence"))
    entries = {
      "task": "de",
      "pairs": ["en-de"],
      "source": {"run": str(run_dir), "step": 30},
      "parameters": {"mixture": 9, "bundle": 4},
      "scores": {"en-de": 71.5},
    }
    bundle.write_manifest(folder, Manifest.from_dict(entries))
  return tmp_path / "out" / "de"


def test_a_format_is_added(folder, capsys, taskmoe):
  taskmoe("convert", f"--bundle={folder}", "--formats=plain")
  assert "de/plain: 0.00 MB, plain 3, scores within 0.0e+00, 3 of 3 trans" in (
    capsys.readouterr().out
  )
  manifest = bundle.read_manifest(folder)
  about = json.loads((folder / "plain" / "about.json").read_text())
  assert about["parameters"] == [9, 4]
  assert about["scores"] == {"en-de": 71.5}
  said = manifest.formats["plain"]
  assert said["engine"] == "plain 3"
  assert said["sentences"] == 3
  assert said["bytes"] == 7 + (folder / "plain" / "about.json").stat().st_size
  assert {"plain/deep/model.bin", "plain/about.json"} < manifest.sha256.keys()
  assert damages(folder) == []
  # A second one leaves the first.
  add_formats(folder, "other")
  assert bundle.read_manifest(folder).formats.keys() == {"plain", "other"}
  with pytest.raises(TaskMoeError, match="/plain' exists and is left as it is"):
    add_formats(folder, "plain")
  add_formats(folder, "plain", overwrite=True)
  assert damages(folder) == []


@pytest.mark.slow
def test_a_format_that_fails_leaves_nothing(folder, plain):
  before = (folder / "manifest.json").read_bytes()
  plain.fails = True
  with pytest.raises(TaskMoeError, match="plain 3 does not compute"):
    add_formats(folder, "plain")
  plain.refuses = True
  with pytest.raises(TaskMoeError, match="plain has no 2 heads"):
    add_formats(folder, "plain")
  assert (folder / "manifest.json").read_bytes() == before
  assert not any("plain" in path.name for path in folder.iterdir())


@pytest.mark.slow
def test_a_run_that_moved_is_named(folder, run_dir, tmp_path):
  moved = run_dir.rename(tmp_path / "moved")
  with pytest.raises(TaskMoeError, match=r"/run' that .* Set --run_dir to"):
    add_formats(folder, "plain")
  add_formats(folder, "plain", run_dir=moved)
  (moved / "samples.json").write_text("{}")
  with pytest.raises(TaskMoeError, match="/moved' has no sentences of en-de"):
    add_formats(folder, "other", run_dir=moved)


def test_damage_in_a_folder_of_an_engine(folder, capsys, taskmoe):
  """Loading does not read it; `taskmoe verify` does."""
  add_formats(folder, "plain")
  taskmoe("verify", f"--bundle={folder}")
  assert "de: 5 files, all as they were written" in capsys.readouterr().out
  (folder / "plain" / "deep" / "model.bin").write_bytes(b"weightz")
  taskmoe_jax.load(folder)
  with pytest.raises(TaskMoeError, match=r"1 of 1 bundles in .* damaged"):
    check_bundles(folder)
  printed = capsys.readouterr().out
  assert "de: plain/deep/model.bin is damaged: its SHA-256 is " in printed
  (folder / "plain" / "deep" / "model.bin").unlink()
  (folder / "vocabulary.model").unlink()
  assert damages(folder) == [
    "vocabulary.model is missing",
    "plain/deep/model.bin is missing",
  ]


@pytest.mark.slow
def test_a_folder_of_bundles(folder, capsys):
  (folder.parent / "en.tmp").mkdir()
  check_bundles(folder.parent)
  (folder.parent / "fr").mkdir()
  with pytest.raises(TaskMoeError, match="1 of 2 bundles in"):
    check_bundles(folder.parent)
  printed = capsys.readouterr().out
  assert "/fr' is not a bundle: it has no manifest.json" in printed
  with pytest.raises(TaskMoeError, match=r"/fr' holds no bundle\. Set"):
    check_bundles(folder.parent / "fr")

"""The benchmark of formats runs, and says what it promises."""

import json

import pytest
from etils import epath

from benchmarks import formats
from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import Manifest

TEXTS = {"en-de": (["abc", "hh a", "hg fe"], ["cba", "ab", "efgh"])}


@pytest.fixture
def bundles(sub_network, tmp_path):
  """A folder of one bundle, of two pairs."""
  folder = epath.Path(tmp_path) / "bundles" / "de"
  folder.mkdir(parents=True)
  bundle.write_model(folder, sub_network())
  bundle.write_manifest(folder, Manifest(task="de"))
  return folder.parent


@pytest.fixture
def texts(tmp_path):
  folder = tmp_path / "texts"
  folder.mkdir()
  for pair in ("en-de", "fr-de"):
    for side, lines in zip(("src", "ref"), TEXTS["en-de"], strict=True):
      text = "".join(f"{line}\n" for line in lines)
      (folder / f"{pair}.{side}.txt").write_text(text)
  return folder


@pytest.mark.slow
def test_rows_of_json_and_their_summary(bundles, texts, tmp_path, monkeypatch):
  # As long as in other tests, so that the search is compiled once.
  monkeypatch.setattr(formats, "_LONGEST", 64)
  path = tmp_path / "rows.json"
  names = "ctranslate2,ctranslate2_int8"
  exact, rounded = formats.main(
    [
      f"--bundles={bundles}",
      f"--texts={texts}",
      f"--formats={names}",
      f"--json={path}",
    ]
  )
  assert exact["format"] == "ctranslate2"
  assert exact["pairs"] == 2
  assert exact["identical"] == "6/6"
  assert exact["worse"] == exact["BLEU change"] == 0
  assert exact["score difference"] < 1e-4 < rounded["score difference"]
  assert 0 < rounded["MB"] < exact["MB"]
  rows = list(map(json.loads, path.read_text().splitlines()))
  assert [(row["format"], row["pair"]) for row in rows] == [
    ("ctranslate2", "en-de"),
    ("ctranslate2", "fr-de"),
    ("ctranslate2_int8", "en-de"),
    ("ctranslate2_int8", "fr-de"),
  ]
  assert all(row["bundle"] == "de" for row in rows)
  # Beside a bundle that has not the format, nothing is written.
  names = {path.name for path in (bundles / "de").iterdir()}
  assert "ctranslate2" not in names

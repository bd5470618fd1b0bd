"""A run and a bundle of version 0.1.0's first layout still open.

`tests/golden/old` holds what the code before the rooms were rearranged wrote:
a run, a bundle exported from it, and what each of them translated.
"""

import json
import pathlib
import shutil

import numpy as np
import pytest
import safetensors.numpy

import taskmoe_jax

OLD = pathlib.Path(__file__).parents[1] / "golden" / "old"
TRANSLATIONS = json.loads((OLD / "translations.json").read_text())


@pytest.fixture(scope="module")
def old(tmp_path_factory):
  """A copy of the folder; `config.gin` names the paths of the copy."""
  folder = tmp_path_factory.mktemp("old") / "files"
  shutil.copytree(OLD, folder)
  recipe = folder / "run" / "config.gin"
  recipe.write_text(recipe.read_text().replace("{folder}", str(folder)))
  return folder


@pytest.mark.slow
def test_a_bundle_translates_as_it_did():
  found = taskmoe_jax.load(OLD / "bundle").translate(TRANSLATIONS["sources"])
  assert found == TRANSLATIONS["bundle"]


@pytest.mark.slow
def test_a_run_translates_as_it_did(old):
  model = taskmoe_jax.load(old / "run")
  found = model.translate(TRANSLATIONS["sources"], "en-fr")
  assert found == TRANSLATIONS["run_en_fr"]


@pytest.mark.expensive("it compiles or runs whole programs")
def test_a_run_is_exported_as_it_was(old, taskmoe, tmp_path):
  taskmoe(
    "export", f"--run_dir={old / 'run'}", f"--out={tmp_path}", "--tasks=de"
  )
  for name in ("config.json", "vocabulary.model"):
    written = (tmp_path / "de" / name).read_bytes()
    assert written == (OLD / "bundle" / name).read_bytes(), name
  found, expected = (
    safetensors.numpy.load_file(folder / "model.safetensors")
    for folder in (tmp_path / "de", OLD / "bundle")
  )
  assert list(found) == list(expected)
  for name, array in expected.items():
    # Gates are computed in float32, here by programs that are not optimized.
    np.testing.assert_allclose(found[name], array, rtol=1e-6, err_msg=name)

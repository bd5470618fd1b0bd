import jax
import numpy as np
import pytest

import taskmoe_jax
from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import Origin
from taskmoe_jax.bundles.quantization import Quantization
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export import full_model
from taskmoe_jax.export.full_model import export_whole
from taskmoe_jax.export.shrinking.shrink import Shrinking


@pytest.fixture
def mixture(mixture_of, samples, monkeypatch):
  """One that has no sub-network, as if it were a run."""
  found = mixture_of("token", "sentence")
  monkeypatch.setattr(
    full_model, "load_translator", lambda _, step: (found, step or 30)
  )
  monkeypatch.setattr(full_model, "load_samples", lambda _: samples)
  return found


def test_the_whole_mixture_is_a_bundle(mixture, tmp_path, capsys):
  assert export_whole(tmp_path) == {}
  assert "bundle in" in capsys.readouterr().out
  folder = tmp_path / "export-30" / "whole"
  loaded = taskmoe_jax.load(folder)
  assert loaded.task_space == mixture.task_space
  jax.tree.map(np.testing.assert_array_equal, loaded.params, mixture.params)
  manifest = bundle.read_manifest(folder)
  assert manifest.source == Origin(str(tmp_path), 30)
  sizes = manifest.parameters
  assert sizes.mixture == sizes.bundle == manifest.check["numbers"]
  with pytest.raises(TaskMoeError, match="/whole' exists and is left as it is"):
    export_whole(tmp_path)


@pytest.mark.slow
def test_rounded(sub_network, german, tmp_path, monkeypatch, capsys):
  """A dense model is a whole one too."""
  found = sub_network()
  monkeypatch.setattr(
    full_model, "load_translator", lambda _, step: (found, step)
  )
  monkeypatch.setattr(full_model, "load_samples", lambda _: german)
  said = export_whole(
    tmp_path, step=7, shrinking=Shrinking("", Quantization.INT8_INT4)
  )
  assert "made smaller" in capsys.readouterr().out
  folder = tmp_path / "export-7" / "whole"
  assert bundle.read_manifest(folder).quantization == said["quantization"]
  assert said["quantization"]["sentences"] == 7
  taskmoe_jax.load(folder)


@pytest.mark.slow
def test_what_is_read_back_is_compared(mixture, tmp_path, monkeypatch):
  read = bundle.read_model

  def worn(folder):
    model = read(folder)
    model.params = jax.tree.map(lambda leaf: leaf + 1, model.params)
    return model

  monkeypatch.setattr(bundle, "read_model", worn)
  with pytest.raises(TaskMoeError, match=r"not what is read back\. Nothing"):
    export_whole(tmp_path)
  assert list((tmp_path / "export-30").iterdir()) == []

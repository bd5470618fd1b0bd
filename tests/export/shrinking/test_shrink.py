import json

import jax
import numpy as np
import pytest

import taskmoe_jax
from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import Manifest
from taskmoe_jax.bundles.quantization import Quantization
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.texts import PairText
from taskmoe_jax.export.shrinking import shrink as shrinking
from taskmoe_jax.export.shrinking.bundles import shrink_bundle
from taskmoe_jax.export.shrinking.shrink import NOTHING, Shrinking, shrink

INT8, INT4 = Quantization


@pytest.fixture(scope="session")
def translator(sub_network):
  return sub_network()


@pytest.fixture
def written(translator, tmp_path):
  """The files of a bundle, as they are before they are made smaller."""
  with bundle.new_folder(tmp_path / "de", overwrite=False) as folder:
    bundle.write_model(folder, translator)
    yield folder


@pytest.mark.slow
@pytest.mark.parametrize("quantization", Quantization)
def test_a_rounded_bundle_translates(
  translator, written, german, tmp_path, quantization
):
  texts = {"en-de": PairText(["abc", "hg fe"], [["cba", "efgh"]])}
  said = shrink(written, Shrinking("", quantization, 2), german, texts)
  rounded = said["quantization"]
  assert rounded["stored_as"] == quantization
  assert rounded["sentences"] == 7
  assert 0 < rounded["nats_per_token"] < 0.1
  assert rounded["max_logit_difference"] > 0
  assert 0 <= rounded["identical_translations"] <= 7
  for when in ("before", "after"):
    assert said["cost"]["bleu"][when].keys() == {"en-de"}
  assert said["cost"]["bytes"]["after"] == sum(
    path.stat().length for path in written.iterdir()
  )
  bundle.write_manifest(written, Manifest(task="de", **said))
  config = json.loads((written / "config.json").read_text())
  assert config["quantization"]["stored_as"] == quantization
  loaded = bundle.load_bundle(written)
  assert len(loaded.translate(["abc", "dad"])) == 2
  for (path, ours), theirs in zip(
    jax.tree.leaves_with_path(translator.params),
    jax.tree.leaves(loaded.params),
    strict=True,
  ):
    assert ours.shape == theirs.shape
    assert theirs.dtype == np.float32
    few = quantization is INT4 and "mlp'" in jax.tree_util.keystr(path)
    near = np.abs(ours).max() / (14 if few else 254)
    assert np.abs(ours - theirs).max() <= 1.01 * near


def test_nothing_asked_for(written, german):
  before = {path.name: path.read_bytes() for path in written.iterdir()}
  assert shrink(written, NOTHING, german, {}) == {}
  assert before == {path.name: path.read_bytes() for path in written.iterdir()}


@pytest.mark.slow
def test_another_model_is_refused(written, german, monkeypatch):
  """Scales that lie on other outputs than their numbers."""
  quantize = shrinking.quantize

  def shifted(params, quantization):
    arrays, notes = quantize(params, quantization)
    name = "embedding/table"
    arrays[name] = np.roll(arrays[name], 1, axis=0)
    return arrays, notes

  monkeypatch.setattr(shrinking, "quantize", shifted)
  monkeypatch.setattr(shrinking, "MOST_PER_TOKEN", {INT8: 0.01}, raising=True)
  with pytest.raises(
    TaskMoeError,
    match=r"rounded to int8 the bundle for en-de, fr-de is another model:"
    r" .* by \d.\de[-+]\d\d a token, where at most 0.01 is accepted\. Nothing",
  ):
    shrink(written, Shrinking("", INT8), german, {})


@pytest.fixture
def bundled(translator, tmp_path, monkeypatch, german):
  """A bundle, with its run that has kept sentences."""
  folder, run = tmp_path / "de", tmp_path / "run"
  run.mkdir()
  samples = {pair: list(map(list, rows)) for pair, rows in german.items()}
  (run / "samples.json").write_text(json.dumps(samples))
  with bundle.new_folder(folder, overwrite=False) as temporary:
    bundle.write_model(temporary, translator)
    manifest = Manifest.from_dict(
      {
        "task": "de",
        "pairs": list(german),
        "source": {"run": str(run), "step": 3},
        "check": {"sentences": 4},
        "parameters": {"mixture": 5000, "bundle": 2000},
        "formats": {"plain": {}},
      }
    )
    bundle.write_manifest(temporary, manifest)
  return folder


def test_a_bundle_of_a_bundle(bundled, tmp_path, capsys):
  old = {path.name: path.read_bytes() for path in bundled.iterdir()}
  said = shrink_bundle(bundled, tmp_path / "small", Shrinking("", INT4))
  assert "bundle in" in capsys.readouterr().out
  assert old == {path.name: path.read_bytes() for path in bundled.iterdir()}
  manifest = bundle.read_manifest(tmp_path / "small")
  assert manifest.quantization == said["quantization"]
  assert manifest.check == {"sentences": 4}
  assert manifest.formats == {}
  taskmoe_jax.load(tmp_path / "small")
  with pytest.raises(TaskMoeError, match="/small' exists and is left as it is"):
    shrink_bundle(bundled, tmp_path / "small", Shrinking("", INT8))
  with pytest.raises(
    TaskMoeError,
    match=r"/small' is rounded already, to int8_int4\. Set --bundle to one in",
  ):
    shrink_bundle(tmp_path / "small", tmp_path / "a", Shrinking("", INT8))
  assert not (tmp_path / "a").exists()

"""Folders that are written, opened by transformers, and compared."""

import dataclasses
import hashlib
import importlib.util
import json
import sys

import numpy as np
import pytest
import torch
import yaml
from etils import epath
from safetensors import numpy as safetensors

from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.search import Lengths
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.engine_check import SEARCH
from taskmoe_jax.export.formats.format import Expected, formats_named
from taskmoe_jax.export.formats.huggingface.engine import spare_triton
from taskmoe_jax.export.formats.huggingface.writer import HUGGING_FACE
from taskmoe_jax.task_space import TaskSpace

ABOUT = About("de", "runs/a", 70, (5000, 1234), {"en-de": 31.25, "fr-de": 8.0})


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
  """Threads of models so small only wait for each other."""
  before = torch.get_num_threads()
  torch.set_num_threads(1)
  yield
  torch.set_num_threads(before)


@pytest.fixture(scope="module")
def samples():
  return {
    "en-de": [("abc", "cba"), ("hg fe", "efgh"), ("hh a", "ab")],
    "fr-de": [("dad", "add"), ("f a", "bead"), ("cab", "h")],
  }


@pytest.fixture(scope="module")
def written(sub_network, samples, tmp_path_factory):
  """A folder and what was written there; not to be changed."""
  folder = epath.Path(tmp_path_factory.mktemp("written"))
  expected = Expected(sub_network(), samples)
  HUGGING_FACE.write(expected.bundle, folder, ABOUT)
  return expected, folder


def test_it_has_a_name():
  assert formats_named("huggingface") == {"huggingface": HUGGING_FACE}


@pytest.mark.expensive("it compiles or runs whole programs")
def test_transformers_computes_what_the_bundle_does(written):
  expected, folder = written
  check = HUGGING_FACE.check(expected, folder)
  assert check.engine.startswith("transformers 5.")
  assert check.sentences == check.identical_translations == 6
  assert check.max_score_difference < 1e-4
  assert check.exact


@pytest.mark.slow
def test_gated(sub_network, samples, tmp_path):
  # Of bfloat16 the check makes float32.
  translator = sub_network("gated_gelu", dtype="bfloat16")
  folder = epath.Path(tmp_path)
  HUGGING_FACE.write(translator, folder, ABOUT)
  check = HUGGING_FACE.check(Expected(translator, samples), folder)
  assert check.identical_translations == 6
  assert check.max_score_difference < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("decoder.block.0.layer.1.EncDecAttention.k.weight", "scores of ref"),
    ("shared.weight", r"\d of 6 translations are worse, such as that of"),
  ],
)
def test_other_weights_are_found(written, tmp_path, name, message):
  expected, folder = written
  copy = epath.Path(tmp_path)
  for path in folder.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  arrays = safetensors.load((folder / "model.safetensors").read_bytes())
  arrays[name] = np.flip(arrays[name], 0).copy()
  (copy / "model.safetensors").write_bytes(
    safetensors.save(arrays, metadata={"format": "pt"})
  )
  with pytest.raises(TaskMoeError, match=message):
    HUGGING_FACE.check(expected, copy)


@pytest.mark.slow
def test_another_tokenizer_is_found(written, tmp_path):
  expected, folder = written
  copy = epath.Path(tmp_path)
  for path in folder.iterdir():
    (copy / path.name).write_bytes(path.read_bytes())
  text = json.loads((folder / "tokenizer.json").read_text())
  vocab = text["model"]["vocab"]
  vocab[7], vocab[9] = vocab[9], vocab[7]
  (copy / "tokenizer.json").write_text(json.dumps(text))
  with pytest.raises(TaskMoeError, match=r"tokenizer of transformers .* 'abc'"):
    HUGGING_FACE.check(expected, copy)


def test_triton_is_not_loaded_after_tensorflow(monkeypatch):
  # So that all is as it was, afterwards.
  monkeypatch.setitem(sys.modules, "triton", sys)
  monkeypatch.delitem(sys.modules, "triton")
  monkeypatch.setitem(sys.modules, "tensorflow", sys)
  monkeypatch.delitem(sys.modules, "tensorflow")
  spare_triton()
  assert "triton" not in sys.modules
  monkeypatch.setitem(sys.modules, "tensorflow", sys)
  spare_triton()
  assert importlib.util.find_spec("triton") is None
  monkeypatch.setitem(sys.modules, "triton", json)
  spare_triton()
  assert sys.modules["triton"] is json


def test_settings_of_the_search(written):
  found = json.loads((written[1] / "generation_config.json").read_text())
  assert found["num_beams"] == 4
  assert found["length_penalty"] == 0.5
  assert found["decoder_start_token_id"] == 0
  assert found["max_new_tokens"] == 256


def test_model_card(written):
  _, folder = written
  card = (folder / "README.md").read_text()
  _, head, body = card.split("---\n", 2)
  about = yaml.safe_load(head)
  assert about["language"] == ["en", "de", "fr"]
  assert about["library_name"] == "transformers"
  assert about["pipeline_tag"] == "translation"
  assert "| parameters | 1,234 of the mixture's 5,000 |" in body
  assert "Translates `en-de`, `fr-de`." in body
  assert "<2de> 3 hours" in body
  assert "| en-de | 31.2 |" in body
  assert "run `runs/a`, step 70" in body
  for name in ("model.safetensors", "tokenizer.json", "config.json"):
    checksum = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    assert f"| {name} | `{checksum}` |" in body


@pytest.mark.slow
def test_the_card_says_how(written, capsys):
  expected, folder = written
  card = (folder / "README.md").read_text()
  code = card.split("```python\n", 2)[1].split("```")[0]
  exec(code.replace("FOLDER", repr(str(folder))).replace("3 hours", "abc"), {})
  (ours,) = expected.bundle.decode(
    ["abc"],
    "en-de",
    batch_size=1,
    search=SEARCH,
    lengths=Lengths(max_target=256),
  ).texts
  # Ours shows an unknown token, which is none of the text's.
  assert capsys.readouterr().out == f"{[ours.replace(' ⁇ ', '')]}\n"


def test_norwegian_is_a_language(sub_network, tmp_path, written):
  space = TaskSpace.from_pairs(("en-no",), "pair")
  other = sub_network()
  other = Translator(other.model, other.params, space, other.vocabulary)
  folder = epath.Path(tmp_path)
  HUGGING_FACE.write(other, folder, dataclasses.replace(ABOUT, scores={}))
  card = (folder / "README.md").read_text()
  assert yaml.safe_load(card.split("---\n")[1])["language"] == ["en", "no"]
  assert "Not evaluated." in card


@pytest.mark.slow
def test_what_is_refused_at_once(mixture_of, monkeypatch):
  HUGGING_FACE.refuse(mixture_of("task", "task").model)
  with pytest.raises(TaskMoeError, match=r"routed by token.*or leave hugg"):
    HUGGING_FACE.refuse(mixture_of("task", "token").model)
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(TaskMoeError, match=r"transformers, which is not inst"):
    HUGGING_FACE.refuse(mixture_of("task", "task").model)


@pytest.mark.slow
def test_a_mixture_is_not_written(mixture_of, written, tmp_path):
  folder = epath.Path(tmp_path)
  with pytest.raises(
    TaskMoeError, match=r"several tasks is a mixture.*--tasks"
  ):
    HUGGING_FACE.write(mixture_of("task", "task"), folder, ABOUT)
  assert list(folder.iterdir()) == []

"""A format of another package is written and checked like our own."""

import json
import sys

import pytest

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.bundle import damages
from taskmoe_jax.bundles.manifest import Manifest
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.formats.format import formats_named

MODULE = """
from taskmoe_jax.export.formats.format import FormatCheck


class TokensOnly:
  def refuse(self, model):
    pass

  def write(self, translator, folder, about):
    text = f"{about.task} {len(translator.vocabulary)}"
    (folder / "tokens.txt").write_text(text)

  def check(self, expected, folder):
    rows = sum(map(len, expected.samples.values()))
    return FormatCheck("tokens 1", rows, 0.0, rows, True)


READY = TokensOnly()
NOTHING = 3
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
  folder = tmp_path / "elsewhere"
  folder.mkdir()
  (folder / "outside_format.py").write_text(MODULE)
  monkeypatch.syspath_prepend(folder)
  yield
  sys.modules.pop("outside_format", None)


@pytest.fixture
def folder(mixture_of, tmp_path, samples):
  """A bundle, and its run that has kept sentences."""
  (tmp_path / "run").mkdir()
  (tmp_path / "run" / "samples.json").write_text(json.dumps(samples))
  source = {"run": str(tmp_path / "run"), "step": 30}
  with bundle.new_folder(tmp_path / "de", overwrite=False) as folder:
    bundle.write_model(folder, mixture_of("token", "sentence"))
    entries = {"task": "de", "pairs": ["en-de"], "source": source}
    bundle.write_manifest(folder, Manifest.from_dict(entries))
  return tmp_path / "de"


def test_a_format_of_another_package(folder, taskmoe, capsys):
  taskmoe(
    "convert", f"--bundle={folder}", "--formats=outside_format:TokensOnly"
  )
  assert "de/TokensOnly: 0.00 MB, tokens 1" in capsys.readouterr().out
  assert (folder / "TokensOnly" / "tokens.txt").read_text() == "de 15"
  said = bundle.read_manifest(folder).formats["TokensOnly"]
  assert (said["engine"], said["sentences"]) == ("tokens 1", 3)
  assert damages(folder) == []


def test_an_object_and_one_of_ours_beside_it():
  found = formats_named("outside_format:READY,huggingface")
  assert list(found) == ["READY", "huggingface"]
  assert type(found["READY"]).__name__ == "TokensOnly"


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("nowhere:X", "there is no format 'nowhere:X' (No module named 'nowhere')"),
    ("outside_format:X", "there is no format 'outside_format:X' ("),
    (
      "outside_format:NOTHING",
      "'outside_format:NOTHING' is not a format: it lacks refuse, write, check;"
      " accepted are objects with the methods of",
    ),
    (
      "outside_format:READY,outside_format:READY",
      "'outside_format:READY' would be written to the folder 'READY', which is"
      " that of another format.",
    ),
    ("x:stablehlo", "'x:stablehlo' would be written to the folder 'stablehlo'"),
  ],
)
def test_what_is_not_a_format(name, message):
  with pytest.raises(TaskMoeError) as error:
    formats_named(name)
  assert str(error.value).startswith(message)
  assert "Set --formats" in str(error.value)

import io
import json
import shutil

import pytest
import rich.console

import taskmoe_jax
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.evaluation import evaluate
from taskmoe_jax.partitioning.meshes import MeshShape


@pytest.fixture(autouse=True)
def _quick(quick_compilation):
  pass


@pytest.fixture
def run_dir(finished_run, tmp_path):
  return shutil.copytree(finished_run, tmp_path / "run")


@pytest.fixture
def scored(small_corpus, run_dir):
  """Evaluates; returns the results, where they are, and what was printed."""
  from taskmoe_jax.tasks.tsv import tsv

  mixture = tsv(str(small_corpus), vocabulary=None, temperature=1.0)

  def scored(part="test", examples=None, batch_size=3, **changes):
    console = rich.console.Console(file=io.StringIO(), width=200)
    results = evaluate(
      mixture=mixture,
      run_dir=run_dir,
      part=part,
      examples=examples,
      batch_size=batch_size,
      mesh=MeshShape(),
      console=console,
      **changes,
    )
    folder = run_dir / "evaluation" / f"{part}-1"
    return results, folder, console.file.getvalue()

  return scored


def test_a_test_set_is_translated_and_scored(
  scored, small_corpus, run_dir, use_devices
):
  use_devices(1)
  results, folder, printed = scored(pairs=("de-en", "en-fr"))
  assert (results["step"], results["split"]) == (1, "test")
  assert results["run"] == str(run_dir)
  assert [(row["pair"], row["examples"]) for row in results["pairs"]] == [
    ("de-en", 6),
    ("en-fr", 6),
  ]
  assert json.loads((folder / "results.json").read_text()) == results
  lines = (small_corpus / "en-de.test.tsv").read_text().splitlines()
  english, german = zip(*(line.split("\t") for line in lines), strict=True)
  texts = {
    name: (folder / f"de-en.{name}.txt").read_text().splitlines()
    for name in ("src", "ref", "hyp")
  }
  assert texts["src"] == list(german)
  assert texts["ref"] == list(english)
  translator = taskmoe_jax.load(run_dir)
  decoded = translator.decode(german, "de-en", batch_size=6)
  assert texts["hyp"] == decoded.texts
  french = translator.decode(english, "en-fr", batch_size=6)
  assert results["tokens"] == sum(
    len(ids) for found in (decoded, french) for ids in found.token_ids
  )
  assert "average of 2 pairs" in printed
  assert f"results in {folder}" in printed


def test_eight_devices_translate_as_one(scored, use_devices):
  use_devices(8)
  eight, folder, _ = scored(pairs=("fr-en",))
  translations = (folder / "fr-en.hyp.txt").read_text()
  use_devices(1)
  one, _, _ = scored(pairs=("fr-en",))
  assert (folder / "fr-en.hyp.txt").read_text() == translations
  assert one["pairs"] == eight["pairs"]


def test_all_pairs_and_the_first_examples(scored, use_devices):
  use_devices(1)
  results, folder, _ = scored(part="validation", examples=2)
  assert {row["pair"]: row["examples"] for row in results["pairs"]} == {
    "en-de": 2,
    "de-en": 2,
    "en-fr": 2,
    "fr-en": 2,
  }
  assert folder.name == "validation-1"


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"part": "train"},
      r"unknown part 'train': accepted are validation, test\. Set --part\.",
    ),
    ({"pairs": ("de-fr",)}, "unknown pair 'de-fr': accepted are .* --pairs"),
    ({"examples": 0}, r"0 examples are too few: at least 1\. Set --examples"),
    ({"step": 7}, r"has no checkpoint 7: complete ones are 1\."),
    ({"batch_size": 0}, "batch_size=0 is not at least 1"),
  ],
)
def test_mistakes(scored, run_dir, changes, message):
  with pytest.raises(TaskMoeError, match=message):
    scored(**changes)
  assert not (run_dir / "evaluation").exists()

import dataclasses
import json

import pytest
from etils import epath

import taskmoe_jax
from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.quantization import Quantization
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.results import write_texts
from taskmoe_jax.evaluate.texts import PairText
from taskmoe_jax.export import checkpoint_source, exporting
from taskmoe_jax.export.exporting import export
from taskmoe_jax.export.selection import groups_named, tasks_named
from taskmoe_jax.export.shrinking.shrink import Shrinking
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.task_space import TaskSpace

INT8 = Quantization.INT8
PAIRS = ("en-de", "de-en", "en-fr", "fr-en")


def test_tasks_by_name():
  space = TaskSpace.from_pairs(PAIRS, "target")
  assert tasks_named(space, "all") == ("en", "de", "fr")
  assert tasks_named(space, "fr,de") == ("fr", "de")
  # A pair stands for its task, and a task is exported once.
  assert tasks_named(space, "de-en,fr,fr-en,en") == ("en", "fr")
  space = TaskSpace.from_pairs(PAIRS, "source")
  assert tasks_named(space, "de-en,en-fr") == ("de", "en")
  space = TaskSpace.from_pairs(PAIRS, "pair")
  assert tasks_named(space, "fr-en") == ("fr-en",)
  with pytest.raises(TaskMoeError, match="unknown task 'de': accepted are all"):
    tasks_named(space, "de")


@pytest.mark.parametrize("names", ["dee", "de,", "de, fr", "", "de-fr", "ALL"])
def test_names_of_no_task(names):
  space = TaskSpace.from_pairs(PAIRS, "target")
  with pytest.raises(
    TaskMoeError,
    match=r"^unknown task '.*': accepted are all, en, de, fr, en-de, de-en,"
    r" en-fr, fr-en.*\. Set --tasks\.$",
  ):
    tasks_named(space, names)


def test_bundles_by_name():
  space = TaskSpace.from_pairs(PAIRS, "target")
  each = {"en": ("en",), "de": ("de",), "fr": ("fr",)}
  assert groups_named(space, None, "") == each
  assert groups_named(space, "fr", "") == {"fr": ("fr",)}
  # In the order of the tasks; a pair stands for its task.
  assert groups_named(space, None, "fr,en-de") == {"de+fr": ("de", "fr")}
  both = groups_named(space, "en", "en,fr")
  assert both == {"en": ("en",), "en+fr": ("en", "fr")}
  with pytest.raises(TaskMoeError, match=r"unknown task 'xx'.* Set --union\."):
    groups_named(space, None, "de,xx")


@pytest.fixture
def exported(mixture_of, samples, tmp_path, monkeypatch):
  """Exports a mixture of random weights, as if it were the run `tmp_path`."""

  def run(tasks, encoder="task", decoder="static", **changes):
    mixture = mixture_of(encoder, decoder)
    run = Run(mixture.model, mixture.task_space, mixture.vocabulary, seed=3)
    monkeypatch.setattr(exporting, "load_run", lambda _: run)
    monkeypatch.setattr(
      exporting, "checkpoint_folder", lambda _, step: ("", step or 30)
    )
    monkeypatch.setattr(
      checkpoint_source, "load_translator", lambda *_, step: (mixture, step)
    )
    monkeypatch.setattr(exporting, "load_samples", lambda _: samples)
    return export(tmp_path, tasks=tasks, **changes)

  return run


@pytest.mark.expensive("it compiles models")
def test_a_bundle_for_each_task(exported, tmp_path, plain, capsys):
  rows = exported("en,de", out=tmp_path / "out", formats="plain")
  assert [row.task for row in rows] == ["en", "de"]
  folders = [tmp_path / "out" / name for name in ("de", "en")]
  assert sorted((tmp_path / "out").iterdir()) == folders
  manifest = json.loads((folders[1] / "manifest.json").read_text())
  assert manifest.keys() == {
    "format",
    "task",
    "tasks",
    "pairs",
    "task_by",
    "source",
    "parameters",
    "stacks",
    "check",
    "scores",
    "bleu",
    "formats",
    "sha256",
  }
  assert manifest["pairs"] == ["de-en", "fr-en"]
  assert manifest["source"] == {"run": str(tmp_path), "step": 30}
  check = {"by": "mixture", **dataclasses.asdict(rows[0].check)}
  assert manifest["check"] == check
  assert manifest["check"]["sentences"] == 8
  assert manifest["sha256"].keys() > {"model.safetensors", "plain/about.json"}
  assert manifest["formats"]["plain"]["sentences"] == 8
  own = [path for path in folders[1].iterdir() if path.is_file()]
  assert rows[0].bytes == {
    "bundle": sum(
      path.stat().st_size for path in own if path.name != "manifest.json"
    ),
    "plain": manifest["formats"]["plain"]["bytes"],
  }
  # 3 of 5 experts of 8·6·2 weights in 2 layers of 2 stacks less, a router of
  # 8·5 in 2 layers and a table of 3 tasks of width 8 less; all else is kept.
  sizes = manifest["parameters"]
  assert sizes["mixture"] - sizes["bundle"] == 4 * 3 * 96 + 2 * 40 + 3 * 8
  decoder = manifest["stacks"]["decoder"]
  assert decoder["layers"][1] == {
    "layer": 3,
    "experts": [0, 1],
    "gates": [0.5, 0.5],
  }
  printed = capsys.readouterr().out
  assert f"bundles in {tmp_path / 'out'}" in printed
  loaded = taskmoe_jax.load(folders[1])
  assert loaded.task_space.pairs == ("de-en", "fr-en")
  # Both pairs of the bundle are the same to it, and no other is known.
  assert loaded.translate(["dad"]) == loaded.translate(["dad"], "fr-en")
  with pytest.raises(TaskMoeError, match="unknown"):
    loaded.translate(["dad"], "en-de")


@pytest.mark.expensive("it compiles models")
def test_a_bundle_with_candidates(exported, tmp_path):
  """A dense encoder and a decoder of three of five experts."""
  (row,) = exported("de", decoder="task_then_token")
  folder = tmp_path / "export-30" / "de"
  stacks = bundle.read_manifest(folder).stacks
  assert stacks["encoder"]["granularity"] == "task"
  assert stacks["decoder"]["reduced"]
  assert stacks["decoder"]["granularity"] == "task_then_token"
  layers = stacks["decoder"]["layers"]
  assert [layer["layer"] for layer in layers] == [1, 3]
  for layer in layers:
    assert layer.keys() == {"layer", "candidates"}
    assert sorted(set(layer["candidates"])) == layer["candidates"]
    assert len(layer["candidates"]) == 3
  assert (row.check.identical_translations, row.check.sentences) == (3, 3)
  loaded = taskmoe_jax.load(folder)
  assert loaded.task_space.tasks == ("de",)
  assert loaded.model.decoder.moe.num_experts == 3
  # Two experts of 8·6·2 weights in 2 layers of the decoder less, their columns
  # of two tables, and 2 of 3 task vectors; three experts in the encoder, whose
  # router and task table are gone.
  full, kept = row.parameters
  decoder = 2 * (2 * 96 + 2 * 2 * 8) + 2 * 8
  encoder = 2 * (3 * 96 + 40) + 3 * 8
  assert full - kept == decoder + encoder


@pytest.mark.slow
def test_what_an_engine_cannot_represent_is_refused_first(exported, tmp_path):
  with pytest.raises(TaskMoeError, match=r"decoder is routed by task_then_"):
    exported("all", decoder="task_then_token", formats="ctranslate2")
  with pytest.raises(TaskMoeError, match=r"unknown format 'onxx'"):
    exported("all", formats="onxx")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_folder_is_named_for_the_step(exported, tmp_path):
  exported("fr", step=12)
  assert (tmp_path / "export-12" / "fr" / "manifest.json").exists()


@pytest.mark.slow
def test_bundles_that_are_there_are_left_alone(exported, tmp_path):
  (tmp_path / "export-30" / "fr").mkdir(parents=True)
  with pytest.raises(TaskMoeError, match="/fr' exists and is left as it is"):
    exported("de,fr")
  # Asked before the first is written.
  assert not (tmp_path / "export-30" / "de").exists()
  exported("fr", overwrite=True)
  assert (tmp_path / "export-30" / "fr" / "manifest.json").exists()


@pytest.mark.slow
def test_a_bundle_that_is_not_its_mixture_is_not_written(
  exported, tmp_path, monkeypatch
):
  extract = exporting.extract

  def of_another_task(params, config, task_ids, num_tasks):
    others = [(task + 1) % num_tasks for task in task_ids]
    return extract(params, config, others, num_tasks)

  monkeypatch.setattr(exporting, "extract", of_another_task)
  with pytest.raises(TaskMoeError, match=r"en-de is not its mixture: .* Noth"):
    exported("de")
  assert list((tmp_path / "export-30").iterdir()) == []


@pytest.mark.slow
def test_nothing_to_reduce(exported, tmp_path):
  with pytest.raises(TaskMoeError, match="no sub-network can be extracted"):
    exported("all", encoder="token", decoder="sentence")
  assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_rounded_once_it_is_proved_right(exported, tmp_path, plain, capsys):
  """The format is of the rounded bundle; the proof is of what it was."""
  place = tmp_path / "evaluation" / "test-30"
  text = PairText(["ab"], [["ba"]])
  write_texts(epath.Path(place), "en-fr", text, ["ba"])
  shrinking = Shrinking("", INT8)
  (row,) = exported("fr", formats="plain", shrinking=shrinking, score=1)
  manifest = bundle.read_manifest(tmp_path / "export-30" / "fr")
  assert manifest.check["max_logit_difference"] < 1e-4
  assert manifest.quantization == row.shrunk["quantization"]
  assert manifest.cost["bytes"]["after"] == row.bytes["bundle"]
  assert manifest.formats.keys() == {"plain"}
  # Both models are scored on what the run was evaluated on.
  full, kept = row.bleu
  assert [full] == list(manifest.bleu["mixture"].values())
  assert [kept] == list(manifest.bleu["bundle"].values())
  assert "made smaller" in capsys.readouterr().out

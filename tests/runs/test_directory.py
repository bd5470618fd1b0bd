import dataclasses
import json

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.runs.directory import (
  Run,
  check_run_directory,
  is_run_directory,
  load_run,
  load_samples,
  make_folder,
  open_run_directory,
)
from taskmoe_jax.task_space import TaskSpace

SAMPLES = {"de-en": [("Haus", "house"), ("Tür", "door")]}


@pytest.fixture
def folder(tmp_path, run):
  open_run_directory(tmp_path / "run", run, "SEED = 1\n", SAMPLES)
  return tmp_path / "run"


def _contents(folder):
  return {
    path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()
  }


def test_what_is_written_is_read_back(folder, run):
  assert _contents(folder).keys() == {
    "config.gin",
    "run.json",
    "samples.json",
    "vocabulary.model",
  }
  assert (folder / "config.gin").read_text() == "SEED = 1\n"
  found = load_run(folder)
  assert found.model == run.model
  assert found.task_space == run.task_space
  assert found.vocabulary.checksum == run.vocabulary.checksum
  assert found.seed == 3
  assert load_samples(folder) == SAMPLES
  assert is_run_directory(folder)


def test_the_same_run_goes_on_with_a_changed_recipe(folder, run):
  open_run_directory(folder, run, "SEED = 1\nLOG_EVERY = 7\n", SAMPLES)
  assert (folder / "config.gin").read_text() == "SEED = 1\nLOG_EVERY = 7\n"


@pytest.mark.parametrize(
  "changes",
  [
    {"dropout_rate": 0.2},
    {"dtype": "bfloat16"},
    {"moe": {"capacity_factor": 1.25}},
    {"moe": {"group_size": 32, "dispatch": "capacity"}},
    {"moe": {"balance_loss_weight": 0.0, "z_loss_weight": 0.0}},
    {
      "moe": {
        "second_expert_policy": "random",
        "second_expert_threshold": 0.5,
        "renormalize": "after",
        "jitter": 0.1,
        "gating_dropout_rate": 0.2,
      }
    },
    {
      "moe": {
        "expert_mask_rate": 0.2,
        "priority": "random",
        "dispatch": "capacity",
      }
    },
  ],
)
def test_what_shapes_no_parameter_may_change(
  folder, run, model_config, changes
):
  changed = dataclasses.replace(run, model=model_config(**changes))
  assert changed.model != run.model
  open_run_directory(folder, changed, "", SAMPLES)
  assert load_run(folder).model == changed.model


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"embed_dim": 16}, "its model.embed_dim is 8, and not 16 as asked"),
    ({"num_heads": 4}, "its model.num_heads is 2, and not 4 as asked"),
    ({"activation": "gated_gelu"}, "model.activation is 'relu', and not 'gat"),
    (
      {"moe": {"num_experts": 8}},
      "its model.encoder.moe.num_experts is 4, and not 8 as asked",
    ),
    (
      {"moe": {"granularity": "static"}},
      "its model.encoder.moe.granularity is 'token', and not 'static' as asked",
    ),
    (
      {"moe": {"num_candidates": 3}},
      "its model.encoder.moe.num_candidates is None, and not 3 as asked",
    ),
  ],
)
def test_another_model_is_refused(folder, run, model_config, changes, message):
  before = _contents(folder)
  changed = dataclasses.replace(run, model=model_config(**changes))
  with pytest.raises(TaskMoeError, match=message) as caught:
    open_run_directory(folder, changed, "SEED = 2\n", SAMPLES)
  assert str(caught.value).startswith(f"'{folder}' holds another run: its ")
  assert str(caught.value).endswith(
    " now. Set RUN_DIR to another folder, or the recipe as it was (see"
    " config.gin there)."
  )
  assert _contents(folder) == before


def test_a_dense_stack_is_another_model(folder, run, model_config):
  dense = type(run.model.encoder)(num_layers=2, mlp_dims=(7,))
  changed = dataclasses.replace(run, model=model_config(encoder=dense))
  with pytest.raises(TaskMoeError, match=r"its model\.encoder\.moe is {'gran"):
    check_run_directory(folder, changed)


@pytest.mark.parametrize(
  ("pairs", "task_by", "message"),
  [
    (("en-de", "de-en"), "target", r"task_space\.languages is \['en', 'de', '"),
    (
      ("en-de", "de-en", "fr-en", "en-fr"),
      "target",
      r"task_space\.pairs is \['en-de', 'de-en', 'en-fr', 'fr-en'\], and not",
    ),
    (
      ("en-de", "de-en", "en-fr", "fr-en"),
      "pair",
      r"its task_space\.task_by is 'target', and not 'pair' as asked",
    ),
  ],
)
def test_other_tasks_are_refused(folder, run, pairs, task_by, message):
  before = _contents(folder)
  space = TaskSpace.from_pairs(pairs, task_by)
  with pytest.raises(TaskMoeError, match=message):
    open_run_directory(
      folder, dataclasses.replace(run, task_space=space), "", SAMPLES
    )
  assert _contents(folder) == before


def test_another_vocabulary_is_refused(folder, run, vocabulary_of):
  before = _contents(folder)
  other = dataclasses.replace(run, vocabulary=vocabulary_of("abcdefgz"))
  with pytest.raises(
    TaskMoeError,
    match=f"its vocabulary is '{run.vocabulary.checksum}', and not"
    f" '{other.vocabulary.checksum}' as asked",
  ):
    open_run_directory(folder, other, "", SAMPLES)
  assert _contents(folder) == before


def test_another_seed_is_refused(folder, run):
  """It would be another order of the data, and other dropout."""
  before = _contents(folder)
  with pytest.raises(TaskMoeError, match="its seed is 3, and not 4 as asked"):
    open_run_directory(folder, dataclasses.replace(run, seed=4), "", SAMPLES)
  assert _contents(folder) == before


def test_checkpoints_of_nobody_are_left_alone(tmp_path, run):
  (tmp_path / "checkpoints").mkdir()
  with pytest.raises(TaskMoeError, match=r"has checkpoints but no run\.json"):
    open_run_directory(tmp_path, run, "", SAMPLES)
  assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]


def test_a_vocabulary_larger_than_the_table(run, model_config):
  with pytest.raises(
    TaskMoeError,
    match=r"the vocabulary 'memory' has 12 pieces, more than the model's"
    r" vocab_size=11\. Set VOCAB_SIZE\.",
  ):
    Run(model_config(vocab_size=11), run.task_space, run.vocabulary, 3)
  Run(model_config(vocab_size=12), run.task_space, run.vocabulary, 3)


def test_a_folder_that_is_no_run_directory(tmp_path):
  assert not is_run_directory(tmp_path)
  with pytest.raises(
    TaskMoeError,
    match=r"is not a run directory: it has no run\.json\. Name the",
  ):
    load_run(tmp_path)


def test_a_vocabulary_that_was_exchanged(folder, vocabulary_of):
  other = vocabulary_of("abcdefgz")
  (folder / "vocabulary.model").write_bytes(other.model)
  with pytest.raises(
    TaskMoeError,
    match=f"is not the vocabulary of the run: its SHA-256 is"
    f" {other.checksum[:12]}\\.\\.\\., and run\\.json says",
  ):
    load_run(folder)


def test_a_run_description_that_is_no_json(folder, run):
  (folder / "run.json").write_text('{"model": ')
  for function in (load_run, lambda f: check_run_directory(f, run)):
    with pytest.raises(
      TaskMoeError, match=r"run\.json' is not JSON: Expecting"
    ):
      function(folder)


def test_a_run_description_is_json_for_others_to_read(folder):
  description = json.loads((folder / "run.json").read_text())
  assert description["task_space"] == {
    "languages": ["en", "de", "fr"],
    "pairs": ["en-de", "de-en", "en-fr", "fr-en"],
    "task_by": "target",
  }


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    TaskMoeError,
    match=r"cannot write into the run directory '.*/file/run' \(Not a"
    r" directory\)\. Set RUN_DIR to another folder\.",
  ):
    make_folder(tmp_path / "file" / "run")
  make_folder(tmp_path / "new" / "run")
  assert list((tmp_path / "new" / "run").iterdir()) == []

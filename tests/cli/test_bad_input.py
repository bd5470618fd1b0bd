"""Mistakes of users, at the command line: one line each, nothing changed.

Each line names what is wrong and what is accepted.
"""

import re

import pytest

import taskmoe_jax
from taskmoe_jax.cli.main import main


def _snapshot(folder):
  return {
    path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
  }


@pytest.fixture
def fails(capsys, tmp_path, small_corpus):
  """Runs a command that must fail with one line that matches."""

  def fails(message, *argv):
    before = _snapshot(tmp_path), _snapshot(small_corpus)
    capsys.readouterr()
    assert main([str(argument) for argument in argv]) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert re.fullmatch(f"taskmoe: error: {message}.*", line), line
    assert "Traceback" not in printed.out
    assert (_snapshot(tmp_path), _snapshot(small_corpus)) == before

  return fails


@pytest.fixture
def train_fails(fails, small_recipe, tmp_path):
  def train_fails(message, *flags):
    fails(
      message,
      "train",
      f"--gin_file={small_recipe}",
      f"--gin.RUN_DIR={tmp_path / 'run'}",
      *flags,
    )

  return train_fails


@pytest.fixture
def run_fails(fails, finished_run):
  """Runs a command on a finished run, which must not be changed by it."""

  def run_fails(message, *argv):
    before = _snapshot(finished_run)
    fails(message, *argv)
    assert _snapshot(finished_run) == before

  return run_fails


def test_recipes_and_gin_names(fails, train_fails):
  fails(
    r"unknown gin file 'recipes/dmeo\.gin': accepted are recipes/demo\.gin, .*"
    r"\(did you mean 'recipes/demo\.gin'\?\)",
    "train",
    "--gin_file=recipes/dmeo.gin",
  )
  train_fails(
    r"bound in gin but read by nothing: ENCODR \(the command line; did you mean"
    r" ENCODER\?\)",
    "--gin.ENCODR=task",
  )
  train_fails(
    r"--gin\.config\.ModelConfig\.embed_dims: unknown parameter of"
    r" config\.ModelConfig 'embed_dims': accepted are vocab_size, embed_dim",
    "--gin.config.ModelConfig.embed_dims=8",
  )


def test_values(train_fails):
  train_fails(
    "unknown granularity 'tusk': accepted are token, sentence, task, static,"
    " word, task_then_token"
    r" \(did you mean 'task'\?\)\. Set MoeConfig\.granularity\. \(In encoder/",
    "--gin.ENCODER=tusk",
  )
  train_fails(
    "unknown task_by 'targets': accepted are target, source, pair .*TASK_BY",
    "--gin.TASK_BY=targets",
  )
  train_fails(
    "a batch of 12 rows does not divide over 8 devices. Set BATCH_SIZE to a"
    " multiple of 8, or MeshShape",
    "--gin.BATCH_SIZE=12",
  )
  train_fails(
    "every_steps=3 is not a multiple of log_every=2, .* Set CHECKPOINT_EVERY",
    "--gin.CHECKPOINT_EVERY=3",
    "--gin.LOG_EVERY=2",
  )


def test_languages(fails, tmp_path):
  fails(
    "unknown language 'xx': accepted are en, cs, de, es, et, fi, .*Set"
    r" cldr_30\.languages",
    "train",
    "--gin_file=recipes/demo.gin",
    f"--gin.RUN_DIR={tmp_path / 'run'}",
    "--gin.cldr.cldr_30.languages=('de', 'xx')",
  )


def test_vocabularies(train_fails, small_vocabulary, tmp_path):
  train_fails(
    r"no vocabulary at '/nowhere/x\.model' \(No such file or directory\)\. Make"
    r" one with `taskmoe vocab --gin_file=\.\.\.`, or set VOCABULARY",
    "--gin.VOCABULARY=/nowhere/x.model",
  )
  train_fails(
    rf"the vocabulary '{small_vocabulary}' has 293 pieces, more than the"
    r" model's vocab_size=290\. Set VOCAB_SIZE",
    "--gin.VOCAB_SIZE=290",
  )


def test_corpora(train_fails, tmp_path):
  corpus = tmp_path / "corpus"
  flag = f"--gin.TSV_FOLDER={corpus}"
  train_fails(f"no folder '{corpus}'", flag)
  corpus.mkdir()
  train_fails(
    f"the folder '{corpus}' has no file called xx-yy.{{train,dev,test}}", flag
  )
  (corpus / "en-de.train.tsv").write_text("")
  train_fails("the train part of .* is empty: give it text", flag)
  (corpus / "en-de.train.tsv").write_text("house\nHaus\n")
  train_fails(
    rf"{corpus}/en-de\.train\.tsv: 2 of 2 lines are malformed, more than 1 %",
    flag,
  )


def test_a_run_directory_that_cannot_be_written(fails, small_recipe, tmp_path):
  (tmp_path / "file").write_text("")
  fails(
    rf"cannot write into the run directory '{tmp_path}/file/run' \(Not a"
    r" directory\)\. Set RUN_DIR",
    "train",
    f"--gin_file={small_recipe}",
    f"--gin.RUN_DIR={tmp_path}/file/run",
  )


@pytest.mark.expensive("it compiles models")
def test_a_run_directory_of_another_model(
  run_fails, small_recipe, finished_run
):
  for flag, message in (
    (
      "config.ModelConfig.embed_dim=24",
      "its model.embed_dim is 16, and not 24",
    ),
    ("NUM_EXPERTS=8", "its model.encoder.moe.num_experts is 4, and not 8"),
    ("TASK_BY=source", "its task_space.task_by is 'target', and not 'source'"),
    ("ENCODER=token", "its model.encoder.moe.granularity is 'task', and not"),
  ):
    run_fails(
      f"'{finished_run}' holds another run: {message}",
      "train",
      f"--gin_file={small_recipe}",
      f"--gin.RUN_DIR={finished_run}",
      "--gin.config.StackConfig.mlp_dims=()",
      "--gin.ENCODER=task",
      f"--gin.{flag}",
    )


def test_commands_on_a_run(run_fails, finished_run, tmp_path):
  run = f"--run_dir={finished_run}"
  run_fails(
    "unknown task 'dee': accepted are all, de, en, fr, de-en, en-de, en-fr,"
    r" fr-en \(did you mean '.*'\?\)\. Set --tasks",
    "export",
    run,
    "--tasks=fr,dee",
  )
  run_fails(
    r"'.*' has no checkpoint 5: complete ones are 1\. .* --step",
    "export",
    run,
    "--step=5",
  )
  run_fails(
    r"unknown pair 'de-fr': accepted are de-en, en-de, en-fr, fr-en.*--pairs",
    "evaluate",
    run,
    "--pairs=de-fr",
  )
  run_fails(
    "unknown part 'dev': accepted are validation, test.* Set --part",
    "evaluate",
    run,
    "--part=dev",
  )
  for command in ("evaluate", "export"):
    run_fails(
      rf"'{tmp_path}' is no run directory: it has no ",
      command,
      f"--run_dir={tmp_path}",
    )


def test_a_bundle_with_a_flipped_byte(fails, finished_run, tmp_path):
  from taskmoe_jax.bundles import bundle
  from taskmoe_jax.bundles.manifest import Manifest

  with bundle.new_folder(tmp_path / "de", overwrite=False) as folder:
    bundle.write_model(folder, taskmoe_jax.load(finished_run))
    bundle.write_manifest(folder, Manifest())
  text = tmp_path / "text"
  text.write_text("the red dog\n")
  path = tmp_path / "de" / "model.safetensors"
  data = bytearray(path.read_bytes())
  data[-5] ^= 255
  path.write_bytes(data)
  fails(
    rf"'{path}' is damaged: its SHA-256 is",
    "translate",
    f"--bundle={tmp_path / 'de'}",
    "--pair=en-de",
    f"--input={text}",
  )

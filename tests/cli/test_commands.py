"""Flags, input and mistakes of each command; nothing is trained here."""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

from taskmoe_jax.cli.commands import COMMANDS, evaluate
from taskmoe_jax.config import gin_files

ROOT = pathlib.Path(__file__).parents[2]
PIECES = 15
# Of random parameters whose translations differ from line to line.
_SEED = 8


def test_help_of_every_command_loads_neither_tensorflow_nor_jax():
  program = f"""
import sys
from taskmoe_jax.cli.main import main
assert main(["--help"]) == 0
for name in {list(COMMANDS)}:
  try:
    main([name, "--help"])
  except SystemExit as exit:
    assert exit.code == 0, name
print({{"tensorflow", "seqio", "jax", "flax"}} & set(sys.modules))
"""
  printed = subprocess.run(
    [sys.executable, "-c", program],
    check=True,
    stdout=subprocess.PIPE,
    cwd=ROOT,
    env=os.environ,
    text=True,
  ).stdout
  for name in COMMANDS:
    assert f"usage: taskmoe {name} [-h]" in printed
  assert printed.endswith("\nset()\n")


def test_a_folder_that_is_no_run_directory(tmp_path, fails):
  folder = str(tmp_path)
  name = "Name the RUN_DIR of a run that `taskmoe train` has begun."
  for command in ("export", "report", "translate"):
    fails(
      [command, f"--run_dir={folder}"],
      f"{folder!r} is no run directory: it has no run.json. {name}",
    )
  fails(
    ["evaluate", f"--run_dir={folder}"],
    f"{folder!r} is not a run directory: it has no config.gin. Set --run_dir to"
    " the RUN_DIR of a run that `taskmoe train` has begun.",
  )
  assert list(tmp_path.iterdir()) == []


def test_a_run_directory_must_be_named(fails):
  fails(
    ["export"],
    "the following arguments are required: --run_dir. See `taskmoe export"
    " --help`.",
  )
  fails(
    ["evaluate"],
    "nothing to evaluate: set --run_dir, --bundle, or --gin_file to a recipe"
    " whose RUN_DIR holds a run.",
  )


def test_a_recipe_names_its_run(tmp_path, fails):
  fails(
    [
      "evaluate",
      "--gin_file=recipes/demo.gin",
      f"--gin.RUN_DIR={tmp_path}/run",
    ],
    f"'{tmp_path}/run' is no run directory: it has no run.json. Name the"
    " RUN_DIR of a run that `taskmoe train` has begun.",
  )


def test_an_unknown_part(tmp_path, fails):
  """Before the run's parameters are read: this one has none."""
  recipe = gin_files.gin_folder() / "recipes" / "demo.gin"
  shutil.copy(recipe, tmp_path / "config.gin")
  fails(
    ["evaluate", f"--run_dir={tmp_path}", "--part=tset"],
    "unknown part 'tset': accepted are validation, test (did you mean 'test'?)."
    " Set --part.",
  )


def test_evaluate_takes_one_model(tmp_path, fails):
  fails(
    ["evaluate", "--run_dir=a", "--bundle=b"],
    "two models to evaluate: --run_dir=a and --bundle=b. Set one of them.",
  )
  fails(
    ["evaluate", "--compare", str(tmp_path), str(tmp_path)],
    f"{str(tmp_path)!r} has no results.json: name a folder of results, or a run"
    " that `taskmoe evaluate` has evaluated.",
  )


def test_flags_of_evaluate_are_bindings():
  parser = argparse.ArgumentParser()
  evaluate.add_arguments(parser)
  args = parser.parse_args(
    ["--beam_size=3", "--metrics=bleu,ter", "--examples=5"]
  )
  assert evaluate.bindings(args) == [
    "--gin.scores.Scoring.metrics=('bleu', 'ter')",
    "--gin.evaluation.evaluate.examples=5",
    "--gin.evaluation.evaluate.search=@search.Beam()",
    "--gin.search.Beam.size=3",
  ]
  args = parser.parse_args(["--beam_size=1"])
  assert evaluate.bindings(args) == [
    "--gin.evaluation.evaluate.search=@search.Greedy()"
  ]

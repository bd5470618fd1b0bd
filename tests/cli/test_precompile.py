"""`taskmoe precompile`: flags, recipes beside each other, errors."""

import argparse
import json

import pytest

from taskmoe_jax.cli.commands import precompile
from taskmoe_jax.cli.main import main
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.planning import compilation
from tests.planning.test_pod_report import REPORT


def recipes(*, gin_file, gin_overrides=(), compare=()):
  return precompile._recipes(
    argparse.Namespace(
      gin_file=gin_file, gin_overrides=list(gin_overrides), compare=compare
    )
  )


def test_recipes_to_compare():
  """Without a file of its own one has all of the first's, and more flags."""
  found = recipes(
    gin_file=["recipes/a.gin"],
    gin_overrides=["--gin.TRAIN_STEPS=3"],
    compare=[
      "--gin.ENCODER=token --gin.config.StackConfig.mlp_dims='(2, 3)'",
      "recipes/b.gin --gin.TASK_BY=pair",
    ],
  )
  assert found == [
    ("a TRAIN_STEPS=3", ["recipes/a.gin"], ["--gin.TRAIN_STEPS=3"]),
    (
      "a ENCODER=token config.StackConfig.mlp_dims=(2, 3)",
      ["recipes/a.gin"],
      [
        "--gin.TRAIN_STEPS=3",
        "--gin.ENCODER=token",
        "--gin.config.StackConfig.mlp_dims=(2, 3)",
      ],
    ),
    ("b TASK_BY=pair", ["recipes/b.gin"], ["--gin.TASK_BY=pair"]),
  ]


def test_a_comparison_of_something_else():
  with pytest.raises(TaskMoeError) as error:
    recipes(gin_file=["a.gin"], compare=["--slices=2"])
  assert str(error.value) == (
    "--compare='--slices=2': it may hold gin files and --gin.NAME=VALUE only."
  )


def test_pairs():
  assert precompile.pairs_of("3") == ("en-x0", "x0-en", "en-x1")
  assert precompile.pairs_of("de-en,en-de") == ("de-en", "en-de")
  with pytest.raises(TaskMoeError, match="pairs=0 is not at least 1"):
    precompile.pairs_of("0")


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    ((), "the following arguments are required: --topology"),
    (("--topology=v5x:2x2",), "unknown TPU 'v5x'"),
    (("--topology=v5e:2x2", "--steps=fly"), "unknown step 'fly': accepted are"),
    (
      ("--topology=v5e:2x2", "--search", "--compare=b.gin"),
      "--search looks for the best mesh of one recipe, --compare compares",
    ),
  ],
)
def test_mistakes(flags, message, capsys):
  assert main(["precompile", "--gin_file=recipes/demo.gin", *flags]) == 2
  assert message in capsys.readouterr().err


def test_text_that_is_not_there(capsys, monkeypatch):
  """The recipe's own error, and the way round it."""
  monkeypatch.setattr(
    "taskmoe_jax.planning.topologies.Topology.__post_init__", lambda _: None
  )
  flags = "--topology=v5e:2x2", "--gin_file=recipes/web_dense_big.gin"
  assert main(["precompile", *flags]) == 2
  error = capsys.readouterr().err
  assert "TSV_FOLDER" in error
  assert "(Without text, plan for a number of pairs: --pairs=30.)" in error


def test_json(tmp_path):
  """One report by itself, several by their names."""
  path = tmp_path / "report.json"
  precompile._write_json(str(path), [REPORT])
  assert json.loads(path.read_text()) == REPORT.to_dict()
  precompile._write_json(str(path), [REPORT, REPORT])
  assert list(json.loads(path.read_text())) == [REPORT.name]
  with pytest.raises(TaskMoeError, match="Set --json to a file"):
    precompile._write_json(str(tmp_path / "no" / "report.json"), [REPORT])


def test_the_cache_is_filled_only_inside(tmp_path):
  import jax

  before = jax.config.jax_compilation_cache_dir
  with compilation.cache_in(str(tmp_path)):
    assert jax.config.jax_compilation_cache_dir == str(tmp_path)
  assert jax.config.jax_compilation_cache_dir == before

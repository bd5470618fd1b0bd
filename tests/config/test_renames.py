"""Gin files of older versions say the same as today's.

`tests/golden/old_configs` holds the `config.gin` that runs of before the rooms
were built have kept.
"""

import importlib
import inspect
import pathlib
import types

import pytest
from gin import config_parser

from taskmoe_jax.cli import commands
from taskmoe_jax.config import gin_files, renames
from taskmoe_jax.config.build import arguments
from taskmoe_jax.errors import TaskMoeError

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
OLD = sorted((GOLDEN / "old_configs").glob("*.gin"))
# The start of a recipe of ours, as somebody copied and kept it.
RECIPE = """\
from __gin__ import dynamic_registration
from taskmoe_jax.train import loop
from taskmoe_jax.train import optimizers
from taskmoe_jax.train import schedules
from taskmoe_jax.train import trouble
from taskmoe_jax.train import watching as seen

include 'recipes/demo.gin'

trouble.TroublePolicy.spike_window = 7
loop.train.trouble = @inner/trouble.TroublePolicy()
inner/trouble.TroublePolicy:
  stop_after_skipped = 3
loop.train.watching = @seen.Watching()
"""


@pytest.fixture(autouse=True)
def gin_folder(tmp_path, monkeypatch):
  """The real gin folder, not the small one that other tests here have."""
  monkeypatch.chdir(tmp_path)


def load(*files, flags=()):
  gin_files.load(files, flags, top_functions=commands.top_functions())


@pytest.mark.parametrize("path", OLD, ids=lambda path: path.stem)
def test_the_config_of_an_old_run(path, wmt_data):
  from taskmoe_jax.evaluate import evaluation
  from taskmoe_jax.train import loop

  def built():
    return (
      arguments(loop.train, ["config_text"]),
      arguments(evaluation.evaluate),
    )

  load(str(path))
  old, text = built(), gin_files.config_text()
  assert "trouble" in path.read_text()
  today = (GOLDEN / "recipes" / f"{path.stem}.txt").read_text()
  # Recipes bind more today, to the defaults that old runs get: see below.
  assert set(text.splitlines()) <= set(today.splitlines())
  load(
    f"recipes/{path.stem}.gin",
    flags=["--gin.RUN_DIR=run"] if "wmt" in path.stem else [],
  )
  for function, mine, new in zip(
    (loop.train, evaluation.evaluate), old, built(), strict=True
  ):
    parameters = inspect.signature(function).parameters
    assert mine.keys() <= new.keys()
    for name in new.keys() - {"mixture", "optimizer"}:
      expected = mine.get(name, parameters[name].default)
      assert new[name] == expected, name


def test_a_recipe_with_old_names(tmp_path):
  from taskmoe_jax.train import loop

  (tmp_path / "own.gin").write_text(RECIPE)
  load("own.gin")
  policy = arguments(loop.train, ["config_text"])["divergence"]
  assert (policy.spike_window, policy.stop_after_skipped) == (7, 3)
  text = gin_files.config_text()
  assert "trouble" not in text
  assert "Watching" not in text
  # As a run would keep it.
  (tmp_path / "config.gin").write_text(text)
  load("config.gin")
  assert gin_files.config_text() == text


@pytest.mark.parametrize(
  "flag",
  [
    "trouble.TroublePolicy.spike_window=5",
    "divergence.TroublePolicy.spike_window=5",
    "divergence.DivergencePolicy.spike_window=5",
  ],
)
def test_flags_with_old_names(flag):
  from taskmoe_jax.train import loop

  load("recipes/demo.gin", flags=[f"--gin.{flag}"])
  policy = arguments(loop.train, ["config_text"])["divergence"]
  assert policy.spike_window == 5


def test_a_flag_with_an_old_parameter_and_an_old_reference():
  from taskmoe_jax.train import loop

  load(
    "recipes/demo.gin",
    flags=[
      "--gin.loop.train.watching=@x/watching.Watching()",
      "--gin.x/watching.Watching.histograms_every=9",
    ],
  )
  found = arguments(loop.train, ["config_text"])["monitoring"]
  assert found.histograms_every == 9


def test_a_whole_path_that_is_imported_without_from(tmp_path):
  from taskmoe_jax.train import loop

  (tmp_path / "own.gin").write_text("""\
from __gin__ import dynamic_registration
import taskmoe_jax.train.trouble
include 'recipes/demo.gin'
taskmoe_jax.train.trouble.TroublePolicy.spike_window = 6
""")
  load("own.gin")
  policy = arguments(loop.train, ["config_text"])["divergence"]
  assert policy.spike_window == 6


def test_a_module_of_the_users_with_an_old_name(tmp_path, monkeypatch):
  """It is theirs, whatever ours were called."""
  (tmp_path / "trouble.py").write_text("def of_mine(*, size): return size")
  monkeypatch.syspath_prepend(tmp_path)
  modules = {"trouble": importlib.import_module("trouble")}
  assert renames.selector(modules, "trouble.of_mine") == "trouble.of_mine"
  statement = config_parser.ImportStatement(
    "mine.train.trouble", True, None, None
  )
  assert renames.statement(statement) is statement


def test_a_misspelt_name_is_reported_as_ever():
  with pytest.raises(
    TaskMoeError, match=r"^--gin.troubel.TroublePolicy.x: 'troubel.TroublePol"
  ):
    load("recipes/demo.gin", flags=["--gin.troubel.TroublePolicy.x=1"])


@pytest.mark.parametrize("old", sorted(renames._MOVED))
def test_every_old_path_leads_to_a_module(old):
  path, name = f"taskmoe_jax.{old}".rsplit(".", 1)
  parsed = config_parser.ImportStatement(f"{path}.{name}", True, None, None)
  moved = renames.statement(parsed)
  module = importlib.import_module(moved.module)
  assert isinstance(module, types.ModuleType)
  assert renames.statement(moved) is moved
  modules = {moved.bound_name(): module}
  assert renames.selector(modules, f"{name}.f") == f"{moved.bound_name()}.f"

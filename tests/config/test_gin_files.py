"""Where gin files are found, and every mistake one can make in them."""

import os
import pathlib
import re
import subprocess
import sys

import gin
import pytest

from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import configured
from taskmoe_jax.errors import TaskMoeError


def num_steps():
  from fakes import loop

  return configured(loop.train)()["num_steps"]


def test_recipes_are_found_from_any_folder(load, gin_folder, monkeypatch):
  assert gin_files.recipes() == ["recipes/task.gin"]
  load(files=["recipes/task.gin"])
  load(files=[str(gin_folder / "recipes" / "task.gin")])
  with pytest.raises(TaskMoeError, match="unknown gin file 'gin/recipes"):
    load(files=["gin/recipes/task.gin"])
  monkeypatch.chdir(gin_folder.parent)
  load(files=["gin/recipes/task.gin"])
  assert num_steps() == 100


def test_the_working_directory_comes_first(load, write):
  os.mkdir("recipes")
  write("loop.train:\n  model = None\n  num_steps = 7", "recipes/task.gin")
  load()
  assert num_steps() == 7


def test_the_gin_folder_of_a_checkout_and_of_an_installation(
  tmp_path, monkeypatch
):
  monkeypatch.undo()
  package = tmp_path / "taskmoe_jax"
  package.mkdir()
  monkeypatch.setattr(
    gin_files.taskmoe_jax, "__file__", str(package / "__init__.py")
  )
  assert gin_files.gin_folder() == tmp_path / "gin"
  (package / "gin").mkdir()
  assert gin_files.gin_folder() == package / "gin"


@pytest.mark.parametrize(
  ("name", "message"),
  [
    (
      "recipes/tsak.gin",
      "unknown gin file 'recipes/tsak.gin': accepted are recipes/task.gin (did"
      " you mean 'recipes/task.gin'?), or a path from the working directory.",
    ),
    (
      "/no/such.gin",
      "unknown gin file '/no/such.gin': accepted are recipes/task.gin, or a"
      " path from the working directory.",
    ),
    # A folder is no file.
    ("..", "unknown gin file '..': accepted are recipes/task.gin, or a path"),
  ],
)
def test_a_file_that_is_not_there(load, name, message):
  with pytest.raises(TaskMoeError, match=re.escape(message)):
    load(files=[name])


MISTAKES = {
  "NUM_STEPS = 3k": "Expected newline.",
  "NUM_STEPS 3": "Couldn't parse statement, expected ':' or '='.",
  "ENCODER = task": "'task' is not a gin value. Strings need quotes.",
  "ENCODER = ('task',": "a bracket or a quote is not closed.",
  "ENCODER = '''task": "a bracket or a quote is not closed.",
  "include models": "'models' is not a gin value. Strings need quotes.",
  "include 'models/bse.gin'": (
    "unknown gin file 'models/bse.gin': accepted are models/base.gin,"
    " recipes/task.gin (did you mean 'models/base.gin'?), or a path from the"
    " working directory."
  ),
  "include 'own.gin'": "own.gin includes itself.",
  "from fakes import lop": (
    "`from fakes import lop` failed: No module named 'fakes.lop'. A gin file"
    " imports modules, not names inside them."
  ),
  "from __gin__ import dynamic_registration": (
    "Dynamic registration should be enabled before any other modules are"
    " imported."
  ),
  "lop.train.seed = 3": (
    "'lop.train' is not imported here: imported are config, loop. A gin file"
    " imports what it binds, below `from __gin__ import dynamic_registration`."
  ),
  "NUM_STEPS = @lop.train()": (
    "'lop.train' is not imported here: imported are config, loop."
  ),
  "loop.trian.seed = 3": (
    "unknown name in loop 'trian': accepted are train, evaluate, warmup, crash,"
    " anything (did you mean 'train'?)."
  ),
  "MODEL = @config.ModlConfig()": (
    "unknown name in config 'ModlConfig': accepted are MoeConfig, StackConfig,"
    " ModelConfig (did you mean 'ModelConfig'?)."
  ),
  "MODEL = @config.ModelConfig.smal()": (
    "unknown name in config.ModelConfig 'smal': accepted are"
  ),
  "loop.sed = 3": (
    "'loop' is not a function or class with parameters to bind; inside it"
    " are train, evaluate, warmup, crash, anything."
  ),
  "config.LIMIT.value = 3": (
    "'config.LIMIT' is not a function or class with parameters to bind;"
    " inside it are none."
  ),
  "loop.train.sed = 3": (
    "unknown parameter of loop.train 'sed': accepted are model, num_steps,"
    " seed, run_dir, schedule (did you mean 'seed'?)."
  ),
  "encoder/config.MoeConfig.experts = 3": (
    "unknown parameter of config.MoeConfig 'experts': accepted are granularity,"
    " num_experts, dropout_rate"
  ),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes_name_file_and_line_in_one_line(load, write, text):
  name = write("# Nothing.\n" + text)
  with pytest.raises(TaskMoeError) as caught:
    load(files=[name])
  message = str(caught.value)
  assert message.startswith(
    f"own.gin line {message.split()[2]} {MISTAKES[text]}"
  )
  assert message.split()[2] == "5:"
  assert "\n" not in message


def test_a_mistake_in_an_included_file_names_the_way_there(load, write):
  write("\nloop.train.sed = 3", "inner.gin")
  name = write("include 'inner.gin'")
  with pytest.raises(
    TaskMoeError,
    match=r"^own.gin line 4: inner.gin line 5: unknown parameter of loop.train",
  ):
    load(files=[name])


def test_a_file_that_imports_nothing_says_how(load):
  pathlib.Path("bare.gin").write_text("loop.train.seed = 3")
  with pytest.raises(
    TaskMoeError, match=r"'loop.train' is not imported here: nothing is. A gin"
  ):
    load(files=["bare.gin"])


def test_a_file_that_is_not_text(load):
  pathlib.Path("latin.gin").write_bytes("# Größe\nX = 3".encode("latin-1"))
  with pytest.raises(TaskMoeError, match=r"^latin.gin is not UTF-8 text.$"):
    load(files=["latin.gin"])


def test_undefined_macros(load, write):
  name = write("loop.train.model = [%MODLE]\nMODEL = 3\nSIZE = %MODEL")
  with pytest.raises(
    TaskMoeError,
    match=r"^loop.train.model \(own.gin line 4\): unknown macro 'MODLE':"
    r" accepted are MODEL, SIZE \(did you mean 'MODEL'\?\).$",
  ):
    load(files=[name])


def test_loading_again_forgets_what_was_bound(load, write):
  load("--gin.NUM_STEPS=3")
  load()
  assert num_steps() == 100


def test_parsing_loads_no_tensorflow(gin_folder):
  program = f"""
import sys
sys.path[:0] = [{str(pathlib.Path(__file__).parent)!r}]
from taskmoe_jax.config import gin_files
gin_files.gin_folder = lambda: gin_files.pathlib.Path({str(gin_folder)!r})
tops = ["fakes.loop.train", "fakes.loop.evaluate"]
gin_files.load(["recipes/task.gin"], ["--gin.NUM_STEPS=3"], top_functions=tops)
assert "fakes.config" in sys.modules
print({{"tensorflow", "seqio", "jax"}} & set(sys.modules))
"""
  printed = subprocess.run(
    [sys.executable, "-c", program],
    check=True,
    stdout=subprocess.PIPE,
    cwd=pathlib.Path(gin_files.__file__).parents[2],
    text=True,
  ).stdout
  assert printed == "set()\n"


def test_the_stored_text_parses_again_and_builds_the_same(load):
  from fakes import config, loop

  load(
    "--gin.decoder/config.StackConfig.num_layers=2",
    "--gin.RUN_DIR=runs/a folder, whose long name has 'quotes' and more than"
    " eighty letters in all",
    '--gin.loop.train.schedule={"a": (1, -2e-05, None), "b": [True, "x y"]}',
  )
  first = configured(loop.train)()
  evaluated = configured(loop.evaluate)()
  text = gin_files.config_text()
  pathlib.Path("config.gin").write_text(text)

  load(files=["config.gin"])
  assert configured(loop.train)() == first
  assert configured(loop.evaluate)() == evaluated
  assert gin_files.config_text() == text
  assert isinstance(first["model"], config.ModelConfig)

  # A later command overrides what was stored.
  load("--gin.config.ModelConfig.embed_dim=9", files=["config.gin"])
  assert configured(loop.train)()["model"].embed_dim == 9


@pytest.mark.parametrize("path", ["gs://bucket/a", "~/a", "/tmp/a"])
def test_paths_that_are_kept_as_they_are(load, path):
  load(f"--gin.RUN_DIR={path}")
  assert f"RUN_DIR = '{path}'\n" in gin_files.kept_text()


def test_relative_paths_are_kept_as_absolute_ones(load, monkeypatch):
  from fakes import loop

  load("--gin.RUN_DIR=runs/a", "--gin.ENCODER=runs")
  before = gin_files.config_text()
  text = gin_files.kept_text()
  # Only in what is kept.
  assert gin_files.config_text() == before
  here = pathlib.Path().absolute()
  assert configured(loop.evaluate)()[1] == "runs/a"
  pathlib.Path("config.gin").write_text(text)
  monkeypatch.chdir("/")
  load(files=[str(here / "config.gin")])
  assert configured(loop.evaluate)()[1] == str(here / "runs" / "a")
  assert "ENCODER = 'runs'\n" in gin_files.kept_text()


def test_what_is_stored_has_nothing_that_an_override_left_behind(load):
  """Else the guard would refuse it, as a file that stands by itself."""
  load("--gin.config.StackConfig.moe=None")
  text = gin_files.config_text()
  assert "num_experts" not in text
  pathlib.Path("config.gin").write_text(text)
  load(files=["config.gin"])
  assert gin_files.config_text() == text


def test_why_the_operative_config_is_not_stored(load):
  """Its values stand under the scope of a macro, which nothing overrides."""
  from fakes import loop

  load()
  gin.get_configurable(loop.train)()
  pathlib.Path("operative.gin").write_text(gin.operative_config_str())
  with pytest.raises(
    TaskMoeError,
    match=r"read by nothing: config.ModelConfig.embed_dim \(the command line;"
    r" overridden by MODEL/config.ModelConfig.embed_dim\)",
  ):
    load("--gin.config.ModelConfig.embed_dim=9", files=["operative.gin"])
  assert "evaluate" not in gin.operative_config_str()

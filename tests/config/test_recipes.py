"""Every recipe builds what the commands take from it, on eight devices.

`tests/golden/recipes` holds what each resolves to; `UPDATE_GOLDEN=1 make test`
rewrites it.
"""

import dataclasses
import os
import pathlib
import re

import jax
import numpy as np
import pytest

from taskmoe_jax.cli import commands
from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import arguments
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.errors import TaskMoeError, as_members

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "recipes"
NAMES = sorted(path.stem for path in (ROOT / "gin" / "recipes").glob("*.gin"))
REQUIRED = {"RUN_DIR": "run", "TSV_FOLDER": "corpus"}
pytestmark = pytest.mark.usefixtures("wmt_data")


@pytest.fixture(autouse=True)
def gin_folder(tmp_path, monkeypatch):
  """In place of the small gin folder that other tests here have: the real one.

  The corpus is named by a relative path, to be the same in every golden file.
  """
  monkeypatch.chdir(tmp_path)
  (tmp_path / "corpus").mkdir()
  for part in ("train", "dev", "test"):
    (tmp_path / "corpus" / f"de-en.{part}.tsv").write_text("ein Haus\ta house")


def header(name: str) -> str:
  """The comment at the top, its lines joined."""
  text = (ROOT / "gin" / "recipes" / f"{name}.gin").read_text()
  comment = text[: text.index("from __gin__")]
  assert all(line.startswith("#") for line in comment.splitlines())
  return re.sub(r"\n# *", " ", comment.removeprefix("# ")).strip()


def required(name: str) -> list[str]:
  """The macros that a recipe's header calls required."""
  (text,) = re.findall(r"Required: (.*?)\.", header(name))
  return [] if text == "nothing" else text.split(", ")


def load(name: str, *flags: str) -> None:
  given = [f"--gin.{macro}={REQUIRED[macro]}" for macro in required(name)]
  gin_files.load(
    [f"recipes/{name}.gin"],
    [*given, *flags],
    top_functions=commands.top_functions(),
  )


@pytest.mark.expensive("it compiles models")
@pytest.mark.parametrize("name", NAMES)
def test_training(name):
  """Through a whole step, in shapes alone: 13 billion parameters cost none."""
  from taskmoe_jax.data.corpus import task_space_of
  from taskmoe_jax.partitioning.meshes import make_mesh
  from taskmoe_jax.partitioning.rules import Partitioning, activate
  from taskmoe_jax.planning.inspection import abstract_batch, program_of
  from taskmoe_jax.train import loop

  load(name)
  trained = arguments(loop.train, ["config_text"])
  assert trained["batches"].pack
  program = program_of(
    trained,
    Partitioning(make_mesh(trained["mesh"]), trained["fsdp"]),
    task_space_of(open_corpus(trained["mixture"]), trained["task_by"]),
  )
  state = program.abstract_state()

  # Not all metrics: shapes may not stand where jaxtyping wants arrays.
  def step(state, batch):
    new_state, metrics = program.step(state, batch)
    return new_state, metrics.loss

  with activate(program.partitioning):
    new_state, loss = jax.eval_shape(
      step, state, abstract_batch(trained["batches"])
    )
  assert jax.tree.map(np.shape, new_state) == jax.tree.map(np.shape, state)
  assert loss.shape == ()
  assert program.partitioning.mesh.size == 8

  # The recipe's first line, where it states a size.
  for number, unit in re.findall(
    r"([\d.]+)([MB]) parameters", header(name).partition(".  ")[0]
  ):
    stated = float(number) * {"M": 1e6, "B": 1e9}[unit]
    assert program.num_parameters == pytest.approx(stated, rel=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_vocabulary_and_evaluation(name):
  from taskmoe_jax.data import corpus
  from taskmoe_jax.data.seqio import sources
  from taskmoe_jax.data.text import vocabulary_training
  from taskmoe_jax.evaluate import evaluation
  from taskmoe_jax.partitioning.meshes import make_mesh

  load(name)
  made = arguments(vocabulary_training.make_vocabulary)
  assert made["vocabulary"].path is None
  assert sum(sources.rates(made["mixture"]).values()) == pytest.approx(1)

  evaluated = arguments(evaluation.evaluate, ["run_dir"])
  make_mesh(evaluated["mesh"])
  part, texts = (
    evaluated["part"],
    sources.parallel_sources(evaluated["mixture"]),
  )
  assert sorted(texts) == sorted(sources.parallel_sources(made["mixture"]))
  assert part == "test"
  for pair in texts:
    assert corpus.examples(
      open_corpus(evaluated["mixture"]), part=part, pair=pair, limit=1
    )


@pytest.mark.parametrize("name", NAMES)
def test_golden(name, tmp_path):
  """What a recipe resolves to changes only where one meant it to."""
  load(name)
  text = gin_files.config_text()
  golden = GOLDEN / f"{name}.txt"
  if os.environ.get("UPDATE_GOLDEN") == "1":
    golden.parent.mkdir(parents=True, exist_ok=True)
    golden.write_text(text)
  assert text == golden.read_text(), "UPDATE_GOLDEN=1 accepts the change"

  # It is what a run directory keeps, for evaluate to read.
  (tmp_path / "config.gin").write_text(text)
  gin_files.load(["config.gin"], top_functions=commands.top_functions())
  assert gin_files.config_text() == text


def test_no_golden_file_is_left_behind():
  assert sorted(path.stem for path in GOLDEN.iterdir()) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_header(name):
  text = header(name)
  assert f"taskmoe train --gin_file=recipes/{name}.gin" in text
  parts = ("Hardware: ", "Takes: ", "Gives: ", "Required: ", "Often changed: ")
  positions = [text.index(part) for part in parts]
  assert positions == sorted(positions)
  for macro in required(name):
    assert f"--gin.{macro}=" in text


@pytest.mark.parametrize("name", NAMES)
def test_header_names_what_is_required_and_what_can_be_changed(name):
  from taskmoe_jax.train import loop

  load(name)
  text = gin_files.config_text()
  for macro in re.findall(
    r"[A-Z_]{3,}", header(name).partition("Required:")[2]
  ):
    assert f"\n{macro} = " in text, macro
  missing = []
  gin_files.load(
    [f"recipes/{name}.gin"], top_functions=commands.top_functions()
  )
  try:
    arguments(loop.train, ["config_text"])
  except TaskMoeError as error:
    (listed,) = re.findall(r"needs a value for (.*?)\. Bind", str(error))
    missing = listed.split(", ")
  assert sorted(missing) == sorted(required(name))


@pytest.mark.parametrize("name", [n for n in NAMES if n[:3] in ("wmt", "web")])
def test_runs_of_the_paper_override_their_models(name):
  """Models have defaults for these, and of two includes the later wins."""
  from taskmoe_jax.train import loop

  load(name)
  model = arguments(loop.train, ["config_text"])["model"]
  assert (model.dtype, model.dropout_rate) == ("bfloat16", 0.1)


@pytest.mark.slow
def test_each_flag_in_the_header_of_the_routing():
  """One at a time, with the paper's best model."""
  from taskmoe_jax.moe.config import ENUMS
  from taskmoe_jax.train import loop

  text = (ROOT / "gin" / "routing" / "moe.gin").read_text()
  flags = re.findall(r"--gin\.\S+", text)
  assert len(flags) == 8
  with_priority = flags.pop()
  by_hand = {
    "second_expert_policy": "random",
    "jitter": 0.01,
    "expert_mask_rate": 0.2,
    "gating_dropout_rate": 0.2,
    "renormalize": "after",
    "balance_bias_rate": 0.001,
    "priority": "gate",
  }

  def models(*flags):
    load("wmt_task_moe_32e", *flags)
    model = arguments(loop.train, ["config_text"])["model"]
    return model.encoder.moe, model.decoder.moe

  encoder, decoder = models()
  for flag, (name, value) in zip(flags, by_hand.items(), strict=True):
    more = ()
    if name == "priority":
      more = (with_priority,)
      encoder, decoder = models(*more)
    change = as_members(ENUMS, "MoeConfig", {name: value})
    changed = dataclasses.replace(encoder, **change)
    assert changed != encoder
    both = not flag.startswith("--gin.encoder/")
    other = dataclasses.replace(decoder, **change) if both else decoder
    assert models(flag, *more) == (changed, other)

"""What `taskmoe inspect` prints, held against what training would build."""

import re

import pytest

from taskmoe_jax.cli.main import main
from taskmoe_jax.runs.directory import load_run
from taskmoe_jax.train.step import state


@pytest.fixture
def inspect(capsys, monkeypatch):
  """Runs the command, which must make no parameter; returns its lines."""

  def refuse(*arguments):
    raise AssertionError("a parameter was made")

  monkeypatch.setattr(state, "initial_state", refuse)

  def run(*argv):
    assert main(["inspect", *map(str, argv)]) == 0
    # The frames of tables differ between terminals.
    text = re.sub(r"[│┃]", "|", capsys.readouterr().out)
    return [" ".join(line.split()) for line in text.splitlines()]

  return run


@pytest.mark.expensive("it compiles or runs whole programs")
def test_more_devices_than_there_are(inspect, small_recipe):
  """Thirty-two; no text is read, since the pairs are named."""
  lines = inspect(
    f"--gin_file={small_recipe}",
    "--gin.RUN_DIR=nowhere",
    "--gin.TSV_FOLDER=nowhere",
    "--pairs=de-en,en-de,en-fr",
    "--devices=32",
    "--gin.BATCH_SIZE=64",
    "--gin.meshes.MeshShape.expert=2",
    "--gin.meshes.MeshShape.model=2",
    "--gin.ENCODER=task",
    "--gin.DECODER=static",
  )
  assert any(re.match(r"mesh: .*data 8 × expert 2 × model 2", x) for x in lines)
  assert any(
    line.startswith("batch: 64 rows, 4 on each of 16") for line in lines
  )
  # [1, 4, 16, 32] in float32, each split in width.
  (row,) = (x for x in lines if "decoder/blocks/layer_1/moe/experts/wi " in x)
  assert "fetched_mlp 32/expert·model | 2.0 kB |" in row
  assert (
    "encoder: routed by task: which experts serve which task, a checkpoint"
    " says. Set --run_dir."
  ) in lines
  # Three tasks by a fixed table: two experts each, dealt like cards.
  start = lines.index("decoder: experts of each task, and their gates")
  assert [x for x in lines[start:] if x.startswith("| ")][1:] == [
    "| de | 0:0.50 1:0.50 |",
    "| en | 2:0.50 3:0.50 |",
    "| fr | 0:0.50 1:0.50 |",
  ]


@pytest.mark.expensive("it compiles or runs whole programs")
def test_a_run_and_its_experts(inspect, finished_run):
  lines = inspect(f"--run_dir={finished_run}")
  tasks = load_run(finished_run).task_space.tasks
  assert sorted(tasks) == ["de", "en", "fr"]
  assert "experts as in checkpoint 1:" in lines
  for stack in ("encoder", "decoder"):
    start = lines.index(f"{stack}: experts of each task, and their gates")
    rows = [line for line in lines[start:] if line.startswith("| ")][1:4]
    for task, row in zip(tasks, rows, strict=True):
      assert re.fullmatch(rf"\| {task} (\| \d:0\.\d\d \d:0\.\d\d )+\|", row)


def test_mistakes(fails, small_recipe):
  fails(
    ["inspect"],
    "nothing to inspect: set --gin_file to a recipe, or --run_dir to a run.",
  )
  recipe = [f"--gin_file={small_recipe}", "--gin.RUN_DIR=x"]
  fails(
    ["inspect", *recipe, "--devices=0"],
    "devices=0 is not at least 1. Set --devices.",
  )
  fails(
    ["inspect", *recipe, "--devices=3"],
    "a batch of 16 rows does not divide over 3 devices. Set BATCH_SIZE to a"
    " multiple of 3, or MeshShape.",
  )

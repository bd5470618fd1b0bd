"""Runs that begin with another's parameters, and means of checkpoints."""

import jax
import numpy as np
import pytest

import taskmoe_jax
from taskmoe_jax.cli.main import main
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.runs.restoring import average

FLAGS = ("--gin.config.StackConfig.mlp_dims=()", "--gin.ENCODER=task")


@pytest.fixture(autouse=True)
def _one_device(use_devices):
  use_devices(1)


def _contents(folder):
  files = [path for path in folder.rglob("*") if path.is_file()]
  return {path: path.read_bytes() for path in files}


@pytest.mark.expensive("it trains three times")
def test_a_run_begins_with_anothers_parameters_and_means_are_means(
  finished_run, small_recipe, taskmoe, tmp_path, capsys, monkeypatch
):
  run_dir = tmp_path / "run"
  command = (
    "train",
    f"--gin_file={small_recipe}",
    f"--gin.INITIAL_RUN={finished_run}",
    "--gin.TRAIN_STEPS=2",
    "--gin.CHECKPOINT_EVERY=1",
    # So that the first checkpoint is what was taken.
    "--gin.schedules.rsqrt_schedule.learning_rate=1e-30",
    *FLAGS,
  )
  monkeypatch.chdir(tmp_path)
  taskmoe(*command, "--gin.RUN_DIR=run")
  # So that it can be evaluated from any folder.
  assert f"'{run_dir}'" in (run_dir / "config.gin").read_text()
  said = capsys.readouterr().out
  assert f"parameters are those of step 1 in {finished_run}" in said
  taken = taskmoe_jax.load(run_dir).params
  expected = taskmoe_jax.load(finished_run).params
  jax.tree.map(np.testing.assert_array_equal, taken, expected)

  out = tmp_path / "mean"
  taskmoe("average", f"--run_dir={run_dir}", "--last=2", f"--out={out}")
  assert f"mean of 2 checkpoints up to step 2: {out}" in capsys.readouterr().out
  mean = taskmoe_jax.load(out)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
    mean.params,
    expected,
  )
  with pytest.raises(TaskMoeError, match=r"exists\. Set --out to another"):
    average(run_dir, out=out, last=2)
  with pytest.raises(TaskMoeError, match=r"has 2 checkpoints, not 3\. Set"):
    average(run_dir, out=tmp_path / "other", last=3)

  before = _contents(out)
  assert main([*command, f"--gin.RUN_DIR={out}"]) == 2
  assert "has no optimizer: it holds averaged parameters" in (
    capsys.readouterr().err
  )
  # Nor has the recipe there been exchanged.
  assert _contents(out) == before

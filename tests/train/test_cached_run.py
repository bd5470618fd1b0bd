"""Training from a cache is training on the text it was made of."""

import json

import jax
import numpy as np
import pytest

import taskmoe_jax

pytestmark = pytest.mark.bit_for_bit


@pytest.fixture(scope="module")
def cache(small_recipe, taskmoe, tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache") / "cache"
  taskmoe("cache", f"--gin_file={small_recipe}", f"--gin.CACHE={folder}")
  taskmoe("cache", f"--verify={folder}")
  return folder


def _losses(run_dir):
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  return [json.loads(line)["loss"] for line in lines]


@pytest.mark.expensive("it trains twice")
def test_losses_parameters_and_samples_are_those_of_the_text(
  cache,
  small_recipe,
  finished_run,
  taskmoe,
  tmp_path,
  capsys,
):
  run_dir = tmp_path / "run"
  taskmoe(
    "train",
    "--num_processes=1",
    f"--gin_file={small_recipe}",
    "--gin_file=mixtures/cache.gin",
    f"--gin.CACHE={cache}",
    f"--gin.RUN_DIR={run_dir}",
    "--gin.config.StackConfig.mlp_dims=()",
    "--gin.ENCODER=task",
    "--gin.TRAIN_STEPS=1",
  )
  assert f"text from the cache {cache}" in capsys.readouterr().out
  assert _losses(run_dir) == _losses(finished_run)
  jax.tree.map(
    np.testing.assert_array_equal,
    taskmoe_jax.load(run_dir).params,
    taskmoe_jax.load(finished_run).params,
  )
  samples = [
    json.loads((folder / "samples.json").read_text())
    for folder in (run_dir, finished_run)
  ]
  assert samples[0] == samples[1]


def test_a_cache_has_a_place(small_recipe, capsys):
  from taskmoe_jax.cli.main import main

  assert main(["cache", f"--gin_file={small_recipe}"]) == 2
  assert "accepted is str. Set CACHE." in capsys.readouterr().err

"""The same run on one device and on meshes of eight."""

import json

import numpy as np
import pytest

from tests.train.reports import of_the_computation

STEPS = 5
ONE = {"slice": 1, "data": 1, "expert": 1, "model": 1}
EIGHT = {"slice": 1, "data": 8, "expert": 1, "model": 1}
CUBE = {"slice": 1, "data": 2, "expert": 2, "model": 2}
MESHES = {
  "data": (EIGHT,),
  "data, expert, model": (
    CUBE,
    "--gin.meshes.MeshShape.data=2",
    "--gin.meshes.MeshShape.expert=2",
    "--gin.meshes.MeshShape.model=2",
  ),
  "data with FSDP": (EIGHT, "--gin.FSDP=True"),
}


@pytest.fixture(autouse=True)
def _quick(quick_compilation):
  pass


@pytest.fixture
def losses(small_recipe, taskmoe, tmp_path, capsys):
  """Trains on a mesh of this shape, and returns what each step reports."""

  def losses(name, shape, *flags):
    run_dir = tmp_path / name
    taskmoe(
      "train",
      f"--gin_file={small_recipe}",
      f"--gin.RUN_DIR={run_dir}",
      f"--gin.TRAIN_STEPS={STEPS}",
      "--gin.CHECKPOINT_EVERY=5",
      "--gin.DROPOUT_RATE=0.1",
      # Four groups of one task for eight devices.
      "--gin.ROWS_PER_TASK_GROUP=4",
      # Every layer an MoE layer: half as much to compile.
      "--gin.config.StackConfig.mlp_dims=()",
      *flags,
    )
    said = capsys.readouterr().out
    assert f"mesh {shape}" in said
    engine = "expert_fetch: the task alone decides"
    if shape == ONE:
      engine = "dropless: 4 groups of rows with 2 experts each are more"
    if "--gin.DISPATCH=capacity" in flags:
      engine = "capacity: named by MoeConfig.dispatch"
    assert f"encoder experts by {engine}" in said
    assert f"decoder experts by {engine}" in said
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]

  return losses


NOISE = (
  "--gin.moe.MoeConfig.second_expert_policy=random",
  "--gin.moe.MoeConfig.jitter=0.1",
  "--gin.moe.MoeConfig.gating_dropout_rate=0.2",
)
OF_TOKENS = (
  "--gin.moe.MoeConfig.balance_bias_rate=0.01",
  "--gin.moe.MoeConfig.expert_mask_rate=0.1",
  "--gin.moe.MoeConfig.priority=random",
  # Groups of one row, which are the same on every mesh.
  "--gin.DISPATCH=capacity",
  "--gin.moe.MoeConfig.group_size=24",
)


@pytest.mark.parametrize(
  ("granularity", "meshes", "noise"),
  [
    ("token", ("data", "data, expert, model"), (*NOISE, *OF_TOKENS)),
    ("task", ("data with FSDP", "data, expert, model"), NOISE),
  ],
)
def test_losses_do_not_depend_on_the_mesh(
  losses, use_devices, granularity, meshes, noise
):
  """Nor do keys, and the biases that follow the load of all devices."""
  flags = (
    f"--gin.ENCODER={granularity}",
    f"--gin.DECODER={granularity}",
    *noise,
  )
  use_devices(1)
  one = losses("one device", ONE, *flags)
  assert len(one) == STEPS
  use_devices(8)
  for mesh in meshes:
    eight = losses(mesh, *MESHES[mesh], *flags)
    for a, b in zip(one, eight, strict=True):
      a, b = of_the_computation(a), of_the_computation(b)
      assert a.keys() == b.keys()
      for name in a:
        # Sums over devices are rounded in another order, and Adafactor divides
        # by roots of small numbers: in five steps float32 drifts so far apart.
        np.testing.assert_allclose(
          a[name], b[name], rtol=1e-3, atol=1e-5, err_msg=f"{mesh}: {name}"
        )

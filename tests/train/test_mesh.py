"""The same run on one device and on meshes of eight."""

import json
import shutil

import numpy as np
import pytest

from tests.train.reports import of_the_computation

STEPS = 20
ONE = {"slice": 1, "data": 1, "expert": 1, "model": 1}
EIGHT = {"slice": 1, "data": 8, "expert": 1, "model": 1}
CUBE = {"slice": 1, "data": 2, "expert": 2, "model": 2}
SLICES = {"slice": 2, "data": 2, "expert": 2, "model": 1}
MESHES = {
  "one device": (ONE,),
  "data": (EIGHT,),
  "data, expert, model": (
    CUBE,
    "--gin.meshes.MeshShape.data=2",
    "--gin.meshes.MeshShape.expert=2",
    "--gin.meshes.MeshShape.model=2",
  ),
  "slices with FSDP": (
    SLICES,
    "--gin.FSDP=True",
    "--gin.meshes.MeshShape.slices=2",
    "--gin.meshes.MeshShape.data=2",
    "--gin.meshes.MeshShape.expert=2",
  ),
}


@pytest.fixture
def train(small_recipe, taskmoe, use_devices, steps_compiled_once, capsys):
  """Trains on a mesh, and returns what each step reports."""

  def train(run_dir, mesh, *flags):
    shape, *of_mesh = MESHES[mesh]
    use_devices(1 if shape == ONE else 8)
    taskmoe(
      "train",
      f"--gin_file={small_recipe}",
      f"--gin.RUN_DIR={run_dir}",
      f"--gin.TRAIN_STEPS={STEPS}",
      f"--gin.CHECKPOINT_EVERY={STEPS // 2}",
      "--gin.DROPOUT_RATE=0.1",
      # Four groups of one task for eight devices.
      "--gin.ROWS_PER_TASK_GROUP=4",
      # Every layer an MoE layer: half as much to compile.
      "--gin.config.StackConfig.mlp_dims=()",
      *of_mesh,
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
    reports = [of_the_computation(json.loads(line)) for line in lines]
    assert len(reports) == STEPS
    return reports

  return train


def assert_alike(reports, others, name):
  for a, b in zip(reports, others, strict=True):
    assert a.keys() == b.keys()
    for key in a:
      # Sums over devices are rounded in another order, and Adafactor divides
      # by roots of small numbers: so far float32 drifts apart in these steps.
      np.testing.assert_allclose(
        a[key], b[key], rtol=1e-3, atol=1e-5, err_msg=f"{name}: {key}"
      )


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


def _flags(granularity, *noise):
  return (
    f"--gin.ENCODER={granularity}",
    f"--gin.DECODER={granularity}",
    *noise,
  )


@pytest.mark.expensive("it trains on several meshes")
def test_losses_do_not_depend_on_the_mesh(train, tmp_path):
  """Nor do keys, and the biases that follow the load of all devices."""
  flags = _flags("token", *NOISE, *OF_TOKENS)
  one = train(tmp_path / "one", "one device", *flags)
  for mesh in ("data", "data, expert, model"):
    assert_alike(one, train(tmp_path / mesh, mesh, *flags), mesh)


@pytest.mark.expensive("it trains on several meshes")
def test_a_checkpoint_of_any_mesh_resumes_on_another(train, tmp_path):
  """Each mesh goes on from the middle of the one before it, in a circle."""
  flags = _flags("task", *NOISE)
  meshes = [mesh for mesh in MESHES if mesh != "data"]
  whole = {mesh: train(tmp_path / mesh, mesh, *flags) for mesh in meshes}
  for mesh, reports in whole.items():
    assert_alike(whole["one device"], reports, mesh)
  for before, mesh in zip(meshes, meshes[1:] + meshes[:1], strict=True):
    run_dir = tmp_path / f"{before} to {mesh}"
    shutil.copytree(tmp_path / before, run_dir)
    shutil.rmtree(run_dir / "checkpoints" / str(STEPS))
    resumed = train(run_dir, mesh, *flags)
    assert resumed[: STEPS // 2] == whole[before][: STEPS // 2]
    assert_alike(whole["one device"], resumed, run_dir.name)

"""Optimizers from outside the package, bound by a recipe alone."""

import dataclasses
import json
import sys

import jax
import numpy as np
import optax
import pytest

from taskmoe_jax.models.losses import Objective
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.train.program import Program

MODULE = '''
import jax
import optax


def mine(learning_rate):
  """One kind of rule for matrices and another for vectors, every two steps."""

  def labels(params):
    return jax.tree.map(lambda x: "lion" if x.ndim > 2 else "sgd", params)

  rules = {
    "lion": optax.lion(learning_rate),
    "sgd": optax.sgd(learning_rate, momentum=0.9),
  }
  return optax.MultiSteps(
    optax.chain(
      optax.clip_by_global_norm(1.0), optax.multi_transform(rules, labels)
    ),
    every_k_schedule=2,
  )
'''


@pytest.fixture
def outside(tmp_path, monkeypatch):
  """The module `outside_optimizers`, of which the package knows nothing."""
  folder = tmp_path / "elsewhere"
  folder.mkdir()
  (folder / "outside_optimizers.py").write_text(MODULE)
  monkeypatch.syspath_prepend(folder)
  yield
  sys.modules.pop("outside_optimizers", None)


@pytest.fixture
def train(
  small_recipe, taskmoe, use_devices, steps_compiled_once, tmp_path, capsys
):
  """Trains a dense model in microbatches; returns what was said, and losses."""

  def train(name, optimizer, steps, devices):
    use_devices(devices)
    recipe = tmp_path / "mine.gin"
    recipe.write_text(
      "from __gin__ import dynamic_registration\n"
      f"{optimizer.format(recipe=small_recipe)}"
    )
    run_dir = tmp_path / name
    mesh = ("data=2", "model=2") if devices > 1 else ()
    taskmoe(
      "train",
      f"--gin_file={recipe}",
      f"--gin.RUN_DIR={run_dir}",
      f"--gin.TRAIN_STEPS={steps}",
      "--gin.MICROBATCHES=2",
      "--gin.CHECKPOINT_EVERY=1",
      "--gin.config.StackConfig.num_layers=1",
      "--gin.config.StackConfig.moe=None",
      f"--gin.FSDP={devices > 1}",
      *(f"--gin.meshes.MeshShape.{axis}" for axis in mesh),
    )
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    reports = [json.loads(line) for line in lines]
    assert not any("learning_rate" in report for report in reports)
    return capsys.readouterr().out, [report["loss"] for report in reports]

  return train


MINE = """\
import outside_optimizers
include '{recipe}'
OPTIMIZER = @outside_optimizers.mine
outside_optimizers.mine.learning_rate = 0.01
"""


@pytest.mark.expensive("it compiles or runs whole programs")
def test_one_of_mine_on_a_mesh_and_resumed(outside, train):
  """A state of labels, masks, accumulated gradients; three steps of it."""
  _, one = train("one", MINE, 5, 1)
  _, half = train("run", MINE, 3, 4)
  said, losses = train("run", MINE, 5, 4)
  assert "step 3 restored from" in said
  assert losses[:3] == half
  np.testing.assert_allclose(losses, one, rtol=1e-4)
  # Parameters change after every second step, and not in between.
  assert len({round(loss, 4) for loss in one}) > 2


LION = """\
import optax
include '{recipe}'
OPTIMIZER = @optax.lion
optax.lion.learning_rate = 0.001
"""


@pytest.mark.expensive("it compiles or runs whole programs")
def test_lion_of_optax_needs_no_module_at_all(train):
  """The same numbers on one device and on a mesh, and across a resume."""
  _, one = train("one", LION, 4, 1)
  train("run", LION, 2, 4)
  said, losses = train("run", LION, 4, 4)
  assert "step 2 restored from" in said
  np.testing.assert_allclose(losses, one, rtol=1e-4)
  assert losses[-1] < losses[0]


@pytest.mark.slow
def test_moments_are_sharded_as_their_parameters(run, dense):
  program = Program.of(
    dataclasses.replace(run, model=dense),
    lambda: optax.lion(0.1),
    Partitioning(make_mesh(MeshShape(data=2), jax.devices()[:2]), fsdp=True),
    rows_per_task_group=1,
    num_microbatches=1,
    objective=Objective(label_smoothing=0.0, z_loss_weight=0.0),
  )
  shardings = program.shardings
  lion, *_ = shardings.optimizer_state
  assert lion.mu == shardings.params
  assert lion.count.is_fully_replicated
  table = lion.mu["embedding"]["table"]
  assert table.shard_shape((19, 8)) == (19, 4)

import json
import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train.checkpoints import (
  CheckpointPolicy,
  Checkpoints,
  restore_params,
)
from taskmoe_jax.train.state import TrainState


def _state(step, shift=0.0):
  return TrainState(
    jnp.int32(step),
    {"wi": jnp.arange(12.0).reshape(4, 3) + shift, "scale": jnp.ones(5)},
    ((), {"wi": jnp.full((4, 3), step, jnp.float32)}),
    jnp.int32(step // 3),
  )


def _on(number):
  """What to restore on so many devices, with the rows of `wi` spread."""
  mesh = Mesh(np.array(jax.devices()[:number]), ("data",))
  spread = NamedSharding(mesh, PartitionSpec("data"))
  whole = NamedSharding(mesh, PartitionSpec())
  return jax.tree.map(
    lambda x: jax.ShapeDtypeStruct(
      x.shape, x.dtype, sharding=spread if x.shape == (4, 3) else whole
    ),
    _state(0),
  )


def _assert_equal(state, expected):
  jax.tree.map(np.testing.assert_array_equal, state, expected)


@pytest.fixture
def save(tmp_path):
  def save(*steps, keep=3):
    with Checkpoints(tmp_path, CheckpointPolicy(1, keep)) as checkpoints:
      for step in steps:
        checkpoints.save(_state(step, step / 8), {"batches": step}, {"seed": 3})

  return save


@pytest.fixture
def opened(tmp_path):
  with Checkpoints(tmp_path, CheckpointPolicy(1, 3)) as checkpoints:
    yield checkpoints


def test_nothing_is_the_latest_of_none(opened):
  assert opened.latest_step is None


def test_the_latest_is_restored(save, tmp_path):
  save(2, 4, 10)
  with Checkpoints(tmp_path, CheckpointPolicy(1, 3)) as checkpoints:
    assert checkpoints.latest_step == 10
    state, position = checkpoints.restore(_on(1))
  _assert_equal(state, _state(10, 10 / 8))
  assert position == {"batches": 10}


def test_only_the_newest_stay(save, tmp_path):
  save(1, 2, 3, 4, keep=2)
  folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert folders == {"3", "4"}


def test_what_a_checkpoint_says_of_its_run(save, tmp_path):
  save(1)
  folder = tmp_path / "checkpoints" / "1" / "run"
  assert json.loads((folder / "metadata").read_text()) == {"seed": 3}


def test_a_restart_may_have_another_mesh(save, tmp_path):
  save(6)
  with Checkpoints(tmp_path, CheckpointPolicy(1, 3)) as checkpoints:
    state, _ = checkpoints.restore(_on(4))
  _assert_equal(state, _state(6, 6 / 8))
  shards = state.params["wi"].addressable_shards
  assert [shard.data.shape for shard in shards] == [(1, 3)] * 4
  # Each on its own device, and the other way round.
  params, step = restore_params(tmp_path, _on(2).params)
  assert step == 6
  assert params["wi"].addressable_shards[1].data.tolist() == (
    state.params["wi"][2:].tolist()
  )


def test_parameters_of_a_chosen_step(save, tmp_path, caplog):
  save(2, 4)
  with caplog.at_level(logging.WARNING):
    for step in (2, 4):
      params, found = restore_params(tmp_path, _on(1).params, step)
      assert found == step
      _assert_equal(params, _state(step, step / 8).params)
  assert caplog.records == []


def test_an_unfinished_checkpoint_is_never_read(save, tmp_path):
  save(2)
  unfinished = tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp-7"
  (unfinished / "params").mkdir(parents=True)
  assert restore_params(tmp_path, _on(1).params)[1] == 2
  with pytest.raises(TaskMoeError, match="has no checkpoint 4: complete ones"):
    restore_params(tmp_path, _on(1).params, 4)
  with Checkpoints(tmp_path, CheckpointPolicy(1, 3)) as checkpoints:
    assert checkpoints.latest_step == 2
    # Opening has taken it away, and nothing else.
    folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert folders == {"2"}
  save(6)
  folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert folders == {"2", "6"}


def test_a_missing_step_lists_those_there_are(save, tmp_path):
  with pytest.raises(
    TaskMoeError,
    match=r"has no checkpoint: complete ones are none\. Train it first, or"
    r" set --step",
  ):
    restore_params(tmp_path, _on(1).params)
  save(2, 4)
  with pytest.raises(
    TaskMoeError, match=r"has no checkpoint 3: complete ones are 2, 4\."
  ):
    restore_params(tmp_path, _on(1).params, 3)


def test_when_a_checkpoint_is_due(tmp_path):
  with Checkpoints(tmp_path, CheckpointPolicy(4, 1)) as checkpoints:
    due = [step for step in range(1, 11) if checkpoints.is_due(step, 10)]
  assert due == [4, 8, 10]


@pytest.mark.parametrize(
  ("every_steps", "keep", "message"),
  [
    (0, 1, r"every_steps=0 is not at least 1\. Set CheckpointPolicy\.every_s"),
    (1, -2, r"keep=-2 is not at least 1\. Set CheckpointPolicy\.keep\."),
  ],
)
def test_policies_that_cannot_be(every_steps, keep, message):
  with pytest.raises(TaskMoeError, match=message):
    CheckpointPolicy(every_steps, keep)

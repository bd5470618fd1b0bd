import json
import logging
import re
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from taskmoe_jax.errors import TaskMoeError, as_members
from taskmoe_jax.runs.restoring import restore_params
from taskmoe_jax.train.checkpoints import background_writer
from taskmoe_jax.train.checkpoints.checkpoint_policy import (
  Best,
  CheckpointPolicy,
)
from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints
from taskmoe_jax.train.step.state import TrainState


def _state(step, shift=0.0):
  return TrainState(
    jnp.int32(step),
    {"wi": jnp.arange(12.0).reshape(4, 3) + shift, "scale": jnp.ones(5)},
    ((), {"wi": jnp.full((4, 3), step, jnp.float32)}),
    jnp.int32(step // 3),
  )


def _policy(**changes):
  values = {"every_steps": 1, "keep": 3, **changes}
  return CheckpointPolicy(
    **as_members({"best": Best}, "CheckpointPolicy", values)
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
    with Checkpoints(tmp_path, _policy(keep=keep)) as checkpoints:
      for step in steps:
        checkpoints.save(_state(step, step / 8), {"batches": step}, {"seed": 3})

  return save


@pytest.fixture
def opened(tmp_path):
  with Checkpoints(tmp_path, _policy()) as checkpoints:
    yield checkpoints


@pytest.mark.slow
def test_nothing_is_the_latest_of_none(opened):
  assert opened.latest_step is None


@pytest.mark.slow
def test_the_latest_is_restored(save, tmp_path):
  save(2, 4, 10)
  with Checkpoints(tmp_path, _policy()) as checkpoints:
    assert checkpoints.latest_step == 10
    restored = checkpoints.restore(_on(1))
  _assert_equal(restored.state, _state(10, 10 / 8))
  assert restored.position == {"batches": 10}
  assert re.fullmatch(
    r"step 10 restored from .*/checkpoints/10: 0\.0 MB in \d+\.\d s",
    restored.description,
  )


# 124 bytes of state beside 300 are 95 % of 446.3.
@pytest.mark.parametrize(
  ("limit", "in_loop"), [(None, False), (447, False), (446, True)]
)
def test_a_state_may_change_once_it_is_being_saved(
  opened, monkeypatch, limit, in_loop
):
  """Where the device has no room for a copy, too."""
  memory = {"peak_bytes_in_use": 300} | (
    {"bytes_limit": limit} if limit else {}
  )
  monkeypatch.setattr(background_writer, "_memory", lambda device: memory)
  may_read, has_read = threading.Event(), threading.Event()
  save = opened._manager.save

  def later(*args, **kwargs):
    assert may_read.wait(30)
    save(*args, **kwargs)
    has_read.set()

  monkeypatch.setattr(opened._manager, "save", later)
  if in_loop:
    may_read.set()
  state = _state(4)
  opened.save(state, {"batches": 9}, {})
  assert has_read.is_set() == in_loop
  jax.tree.map(lambda x: x.delete(), state)
  assert opened.latest_step == 4
  may_read.set()
  opened.wait()
  _assert_equal(opened.restore(_on(1)).state, _state(4))


@pytest.mark.slow
def test_only_the_newest_stay(save, tmp_path):
  save(1, 2, 3, 4, keep=2)
  folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert folders == {"3", "4"}


def test_what_a_checkpoint_says_of_its_run(save, tmp_path):
  save(1)
  folder = tmp_path / "checkpoints" / "1" / "run"
  assert json.loads((folder / "metadata").read_text()) == {"seed": 3}


@pytest.mark.slow
def test_a_restart_may_have_another_mesh(save, tmp_path):
  save(6)
  with Checkpoints(tmp_path, _policy()) as checkpoints:
    state = checkpoints.restore(_on(4)).state
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
  with Checkpoints(tmp_path, _policy()) as checkpoints:
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
  with Checkpoints(tmp_path, _policy(every_steps=4, keep=1)) as checkpoints:
    due = [step for step in range(1, 11) if checkpoints.is_due(step, 10)]
  assert due == [4, 8, 10]


def test_a_checkpoint_is_also_due_by_the_clock(tmp_path):
  now = 1000.0
  policy = _policy(every_steps=1000, every_minutes=2)
  with Checkpoints(tmp_path, policy, clock=lambda: now) as checkpoints:
    now += 119
    assert not checkpoints.is_due(7, 5000)
    now += 1
    assert checkpoints.is_due(8, 5000)
    # Not where hosts would have to be asked for it.
    assert not checkpoints.is_due(9, 5000, may_ask=False)
    checkpoints.save(_state(8), {}, {})
    assert not checkpoints.is_due(10, 5000)
    now += 120
    assert checkpoints.is_due(11, 5000)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("best", "expected"), [("lowest", {"2", "4", "5"}), ("highest", {"1", "5"})]
)
def test_the_best_stay_besides_the_newest(tmp_path, best, expected):
  """Step 3 was not evaluated, and step 4's score is no number."""
  policy = _policy(
    keep=1,
    keep_best=2 if best == "lowest" else 1,
    best_metric="bleu",
    best=best,
  )
  scores = {1: 9.0, 2: 3.0, 3: None, 4: 4.0, 5: float("nan")}
  with Checkpoints(tmp_path, policy) as checkpoints:
    for step, score in scores.items():
      report = {"loss": 1.0} if score is None else {"bleu": score}
      checkpoints.save(_state(step), {}, {}, report)
  folder = tmp_path / "checkpoints"
  assert {path.name for path in folder.iterdir()} == expected
  # Also after a restart, which must not stumble over a damaged score.
  (folder / "5" / "metrics" / "metrics").write_text('{"sco')
  with Checkpoints(tmp_path, policy) as checkpoints:
    checkpoints.save(_state(6), {}, {}, {"bleu": 5.0})
  assert {path.name for path in folder.iterdir()} == expected - {"5"} | {"6"}


# When one write fails, Orbax leaves its others unfinished.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk(tmp_path, save, no_room):
  """What has been written stays, and there is no half a checkpoint after it."""
  save(2, 4)
  large = _state(6).replace(params={"wi": jnp.arange(90_000.0) ** 2})
  with Checkpoints(tmp_path, _policy()) as checkpoints:
    with no_room(60_000):
      checkpoints.save(large, {}, {})
      with pytest.raises(
        TaskMoeError,
        match=r"checkpoint 6 could not be written to '.*/checkpoints'"
        r" \(ValueError: .*File too large .*\); the last good checkpoint is"
        r" .*/4\. Free space there",
      ):
        checkpoints.wait()
    assert checkpoints.latest_step == 4
    _assert_equal(checkpoints.restore(_on(1)).state, _state(4, 4 / 8))
  save(6)
  with Checkpoints(tmp_path, _policy()) as checkpoints:
    _assert_equal(checkpoints.restore(_on(1)).state, _state(6, 6 / 8))
  folders = {path.name for path in (tmp_path / "checkpoints").iterdir()}
  assert folders == {"2", "4", "6"}


def test_what_fails_in_the_background_is_raised(tmp_path, monkeypatch):
  """By the first look at it after it is known."""
  with Checkpoints(tmp_path, _policy()) as checkpoints:

    def fail(*_):
      raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoints._manager, "_finalize_checkpoint", fail)
    checkpoints.save(_state(2), {}, {})
    while not checkpoints._writer.is_done:
      time.sleep(0.01)
    with pytest.raises(TaskMoeError, match=r"checkpoint 2 could not .*\(OSErr"):
      checkpoints.check()
    monkeypatch.undo()
    checkpoints.check()


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"every_steps": 0},
      r"every_steps=0 is not at least 1\. Set CheckpointPolicy\.every_s",
    ),
    ({"keep": -2}, r"keep=-2 is not at least 1\. Set CheckpointPolicy\.keep\."),
    ({"keep_best": -1}, r"keep_best=-1 is not at least 0\. Set CheckpointPol"),
    (
      {"every_minutes": 0},
      r"every_minutes=0 is not above 0\. Set CheckpointPolicy\.every_minutes, ",
    ),
    ({"best": "low"}, r"unknown best 'low': accepted are lowest, highest"),
  ],
)
def test_policies_that_cannot_be(changes, message):
  with pytest.raises(TaskMoeError, match=message):
    _policy(**changes)

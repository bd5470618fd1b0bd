"""Killed at any moment, a run goes on as if nothing had happened."""

import contextlib
import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

import taskmoe_jax
from taskmoe_jax.cli.main import main
from taskmoe_jax.train import steps
from tests.train.reports import of_the_computation

pytestmark = pytest.mark.bit_for_bit

ROOT = pathlib.Path(__file__).parents[2]
STEPS = 8
FLAGS = (
  f"--gin.TRAIN_STEPS={STEPS}",
  "--gin.CHECKPOINT_EVERY=2",
  "--gin.DROPOUT_RATE=0.1",
  "--gin.MICROBATCHES=2",
  # Every layer an MoE layer: half as much to compile.
  "--gin.config.StackConfig.mlp_dims=()",
  "--gin.ENCODER=token",
  "--gin.DECODER=task",
  # Keys and biases, too, are those of the unbroken run.
  "--gin.moe.MoeConfig.second_expert_policy=random",
  "--gin.moe.MoeConfig.jitter=0.1",
  "--gin.moe.MoeConfig.gating_dropout_rate=0.2",
  "--gin.encoder/moe.MoeConfig.expert_mask_rate=0.1",
  "--gin.encoder/moe.MoeConfig.balance_bias_rate=0.01",
  "--gin.encoder/moe.MoeConfig.dispatch=capacity",
  "--gin.encoder/moe.MoeConfig.priority=random",
)


def _reports(run_dir):
  """All lines but what clocks and memories say."""
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  reports = [json.loads(line) for line in lines]
  assert all(report["time"] > 0 for report in reports)
  return [of_the_computation(report) for report in reports]


def _assert_same_run(run_dir, other):
  reports = _reports(run_dir)
  assert [report["step"] for report in reports] == list(range(1, STEPS + 1))
  assert reports == _reports(other)
  jax.tree.map(
    np.testing.assert_array_equal,
    taskmoe_jax.load(run_dir).params,
    taskmoe_jax.load(other).params,
  )


# Steps last 0.1 s, so that there is something to interrupt.
SLOW_PROGRAM = """
import os, random, signal, sys, threading, time
import jax
import orbax.checkpoint as ocp
from taskmoe_jax.cli.main import main
from taskmoe_jax.train import steps

devices, prefetch = jax.devices(), steps.prefetch
jax.devices = lambda *_: devices[:1]

kill_in = int(os.environ.get("KILL_IN_SAVE", 0))

def slow(batches, *, depth):
  for step, item in enumerate(prefetch(batches, depth=depth), start=1):
    # Saving goes on meanwhile, and is to be killed before the next report.
    time.sleep(60 if kill_in and step == kill_in + 1 else 0.1)
    yield item

steps.prefetch = slow
save = ocp.CheckpointManager.save

# Inside a write, which goes on in the background.
def failing(self, step, **arguments):
  save(self, step, **arguments)
  if step == kill_in:
    time.sleep(random.SystemRandom().uniform(0, 0.03))
    os.kill(os.getpid(), signal.SIGKILL)

ocp.CheckpointManager.save = failing
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def one_device(use_devices, steps_compiled_once):
  use_devices(1)


@pytest.fixture
def arguments(small_recipe):
  def arguments(run_dir):
    return (
      "train",
      f"--gin_file={small_recipe}",
      f"--gin.RUN_DIR={run_dir}",
      *FLAGS,
    )

  return arguments


@pytest.fixture(scope="module")
def unbroken_run(tmp_path_factory):
  """Where the run to compare with is; made by whoever is first."""
  return tmp_path_factory.mktemp("unbroken")


@pytest.fixture
def unbroken(unbroken_run, arguments, taskmoe, one_device):
  if not (unbroken_run / "metrics.jsonl").exists():
    taskmoe(*arguments(unbroken_run))
  return unbroken_run


class PowerFailure(Exception):
  pass


@pytest.fixture
def at_step(monkeypatch):
  """Calls something before a step that is given."""
  prefetch = steps.prefetch

  @contextlib.contextmanager
  def at_step(step, call):
    def calling(batches, *, depth):
      with contextlib.closing(prefetch(batches, depth=depth)) as stream:
        for number, item in enumerate(stream, start=1):
          if number == step:
            call()
          yield item

    with monkeypatch.context() as patch:
      patch.setattr(steps, "prefetch", calling)
      yield

  return at_step


@pytest.mark.expensive("it trains more than once")
def test_a_run_that_broke_off_is_the_unbroken_one(
  unbroken, arguments, taskmoe, tmp_path, at_step
):
  """Before there is a checkpoint."""

  def fail():
    raise PowerFailure

  with at_step(2, fail), pytest.raises(PowerFailure):
    taskmoe(*arguments(tmp_path))
  assert [report["step"] for report in _reports(tmp_path)] == [1]
  # As a kill in the middle of a save leaves it.
  half_written = tmp_path / "checkpoints" / "6.orbax-checkpoint-tmp-1"
  (half_written / "params").mkdir(parents=True)
  taskmoe(*arguments(tmp_path))
  _assert_same_run(tmp_path, unbroken)
  assert not half_written.exists()


# When one write fails, Orbax leaves its others unfinished.
@pytest.mark.expensive("it trains more than once")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_ends_a_run_which_goes_on_when_there_is_room(
  unbroken, arguments, taskmoe, tmp_path, at_step, no_room, capsys
):
  with contextlib.ExitStack() as stack:
    # Less than TensorBoard's file, and a checkpoint's largest, grow to.
    full = no_room(60_000)
    stack.enter_context(at_step(5, lambda: stack.enter_context(full)))
    assert main(arguments(tmp_path)) == 2
  # Whoever has met it first says so.
  assert re.search(
    r"taskmoe: error: (checkpoint \d could not be written to .* the last good"
    r" checkpoint is|cannot write into the run directory .* any more) ",
    capsys.readouterr().err,
  )
  assert (tmp_path / "checkpoints" / "2").exists()
  assert not (tmp_path / "checkpoints" / "6").exists()
  taskmoe(*arguments(tmp_path))
  _assert_same_run(tmp_path, unbroken)


@pytest.mark.expensive("it trains more than once")
def test_a_killed_run_is_the_unbroken_one(
  unbroken, arguments, taskmoe, tmp_path
):
  """Killed while it writes step 4, again at random, and then left alone."""
  program = [sys.executable, "-c", SLOW_PROGRAM, *arguments(tmp_path)]
  options = {"cwd": ROOT, "stdout": subprocess.DEVNULL}
  environment = {**os.environ, "KILL_IN_SAVE": "4"}
  killed = subprocess.run(program, env=environment, check=False, **options)
  assert killed.returncode == -signal.SIGKILL
  metrics = tmp_path / "metrics.jsonl"
  assert metrics.read_bytes().count(b"\n") == 4
  # Step 4 is there or it is not; that of step 2 is.
  assert (tmp_path / "checkpoints" / "2").exists()

  running = subprocess.Popen(program, **options)
  while metrics.read_bytes().count(b"\n") < 5:
    assert running.poll() is None
    time.sleep(0.02)
  moment = random.SystemRandom().uniform(0, 0.2)
  print(f"killed {moment:.3f} s after the fifth report")
  time.sleep(moment)
  running.send_signal(signal.SIGKILL)
  assert running.wait() == -signal.SIGKILL
  assert 5 <= metrics.read_bytes().count(b"\n") < STEPS

  taskmoe(*arguments(tmp_path))
  _assert_same_run(tmp_path, unbroken)


@pytest.mark.expensive("it trains more than once")
def test_sigterm_saves_first(
  unbroken, arguments, tmp_path, taskmoe, at_step, capsys
):
  before = signal.getsignal(signal.SIGTERM)
  with at_step(3, lambda: signal.raise_signal(signal.SIGTERM)):
    assert main(arguments(tmp_path)) == 75
  assert signal.getsignal(signal.SIGTERM) is before
  said = f"SIGTERM: saved step 3 of {STEPS}; the same command resumes"
  assert said in capsys.readouterr().out
  assert (tmp_path / "checkpoints" / "3").exists()
  assert not (tmp_path / "lock.json").exists()
  taskmoe(*arguments(tmp_path))
  _assert_same_run(tmp_path, unbroken)


def test_a_finished_run_does_nothing(unbroken, arguments, taskmoe, capsys):
  before = _reports(unbroken)
  taskmoe(*arguments(unbroken))
  assert f"resuming: step {STEPS} restored from" in capsys.readouterr().out
  assert _reports(unbroken) == before

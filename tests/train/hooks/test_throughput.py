"""Speeds by an injected clock, and a thread that waits in the loop's place."""

import threading
import types

import jax
import numpy as np
import optax
import pytest

from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.flops import token_flops
from taskmoe_jax.models.losses import Objective
from taskmoe_jax.partitioning.meshes import (
  MeshShape,
  SimulatedDevice,
  make_mesh,
)
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.planning.inspection import program_of
from taskmoe_jax.train.batch_shape import BatchShape
from taskmoe_jax.train.hooks import throughput
from taskmoe_jax.train.hooks.hook import Moment, TimeSpent, TimeUse
from taskmoe_jax.train.hooks.throughput import (
  Goodput,
  Memory,
  StepClock,
  Throughput,
)
from taskmoe_jax.train.optimizers import adafactor


class Clock:
  """Gives these times, one after the other, to any thread."""

  def __init__(self, *times):
    self._times = iter(times)

  def __call__(self):
    return float(next(self._times))


def _moment(*, report=None, spent=None, tokens=0.0, examples=0):
  """With what the hooks here look at, and nothing else."""
  moment = object.__new__(Moment)
  moment.metrics = types.SimpleNamespace(tokens=np.float32(5))
  moment.spent = spent
  moment.report = {} if report is None else report
  moment.report_due = report is not None
  moment.tokens = tokens
  moment.position = {"pairs": {"en-de": {"examples": examples}}}
  return moment


def test_a_clock_of_steps(monkeypatch):
  """`take` waits for the steps that were added, and for no others."""
  ready, waited = threading.Event(), []

  def wait(result):
    assert ready.wait(10)
    waited.append(result)

  monkeypatch.setattr(jax, "block_until_ready", wait)
  steps = StepClock(Clock(3.0, 7.0, 8.0))
  steps.add("a")
  steps.add("b")
  assert waited == []
  ready.set()
  assert steps.take() == [3.0, 7.0]
  steps.add("c")
  assert steps.take() == [8.0]
  assert steps.take() == []
  steps.close()
  assert waited == ["a", "b", "c"]


def test_a_step_that_fails_holds_nobody_up(monkeypatch):
  def fail(result):
    raise RuntimeError(result)

  monkeypatch.setattr(jax, "block_until_ready", fail)
  steps = StepClock(Clock(3.0, 7.0))
  steps.add("a")
  steps.add("b")
  assert steps.take() == [3.0, 7.0]
  steps.close()


@pytest.fixture
def speed(model_config, space, monitoring):
  """Of a dense model; eight rows of 6 and 5 tokens on two devices."""

  def make(*times, kind):
    stack = StackConfig(num_layers=1, mlp_dims=(7,))
    model = model_config(encoder=stack, decoder=stack)
    settings = {
      "model": model,
      "optimizer": lambda stacked_axes: adafactor(
        optax.constant_schedule(0.1),
        parameter_scale=True,
        stacked_axes=stacked_axes,
      ),
      "batches": BatchShape(
        batch_size=8,
        rows_per_task_group=2,
        source_length=6,
        target_length=5,
        pack=True,
        num_microbatches=1,
      ),
      "seed": 0,
      "objective": Objective(label_smoothing=0.0, z_loss_weight=0.0),
      "monitoring": monitoring(),
    }
    devices = [SimulatedDevice(i, device_kind=kind) for i in range(2)]
    partitioning = Partitioning(make_mesh(MeshShape(data=2), devices))
    flops = token_flops(model, source_length=6, target_length=5)
    hook = Throughput(
      program_of(settings, partitioning, space),
      batch_size=8,
      lengths=(6, 5),
      first_examples=100,
      clock=Clock(*times),
    )
    return hook, flops.training_step(8 * 6, 8 * 5)

  return make


@pytest.mark.slow
def test_reports_by_hand(speed):
  """Three steps, then two; the second report is the first to count."""
  # Begin; three steps, report; two steps, report.
  hook, flops = speed(0, 4, 6, 7, 10, 11, 14, 15, kind="TPU v4")
  for _ in range(2):
    hook.after_step(_moment())
  first = _moment(report={}, tokens=60.0, examples=130)
  hook.after_step(first)
  assert first.report == {
    "tokens_per_second": 6.0,
    "examples_per_second": 3.0,
    "model_tflops_per_second_per_device": pytest.approx(
      3 * flops / 2 / 10 / 1e12
    ),
    "mfu": pytest.approx(3 * flops / 2 / 10 / 275e12),
    "step_seconds/p50": 1.5,
    "step_seconds/p90": pytest.approx(1.9),
    "step_seconds/p99": pytest.approx(1.99),
    "step_seconds/max": 2,
  }
  assert hook.tokens_per_second == 0.0
  hook.after_step(_moment())
  second = _moment(report={}, tokens=40.0, examples=131)
  hook.after_step(second)
  # From the third step, at 7, to the fourth and the fifth.
  assert second.report["step_seconds/max"] == 4
  assert second.report["step_seconds/p50"] == 3.5
  assert second.report["examples_per_second"] == 1 / 5
  assert hook.tokens_per_second == second.report["tokens_per_second"] == 8
  hook.close()


@pytest.mark.slow
def test_no_mfu_without_a_known_peak(speed):
  hook, _ = speed(0, 4, 10, kind="TPU v99")
  moment = _moment(report={}, tokens=60.0, examples=130)
  hook.after_step(moment)
  hook.close()
  assert moment.report.keys() == {
    "tokens_per_second",
    "examples_per_second",
    "model_tflops_per_second_per_device",
  }


def test_where_the_time_goes():
  spent = TimeSpent(Clock(0, 10, 20, 30, 34, 40, 50, 100))
  for use in (TimeUse.RESTORING, TimeUse.INPUT, TimeUse.EVALUATION):
    with spent.on(use):
      pass
  moment = _moment(report={}, spent=spent)
  Goodput().after_step(moment)
  assert moment.report == {
    "goodput": pytest.approx(0.76),
    "time/restoring": 0.1,
    "time/input": 0.04,
    "time/evaluation": 0.1,
    "time/compilation": 0,
    "time/checkpoints": 0,
    "time/profiling": 0,
  }


def test_memory_of_the_fullest_device(monkeypatch):
  def device(**statistics):
    return types.SimpleNamespace(memory_stats=lambda: statistics or None)

  devices = [
    device(peak_bytes_in_use=3e9, bytes_limit=8e9),
    device(peak_bytes_in_use=5e9, bytes_limit=9e9),
  ]
  monkeypatch.setattr(jax, "local_devices", lambda: devices)
  monkeypatch.setattr(throughput, "host_peak_bytes", lambda: 7e9)
  moment = _moment(report={})
  Memory().after_step(moment)
  assert moment.report == {
    "memory/host_peak_gb": 7,
    "memory/device_peak_gb": 5,
    "memory/device_limit_gb": 9,
  }
  # A CPU cannot tell.
  monkeypatch.setattr(jax, "local_devices", lambda: [device()])
  moment = _moment(report={})
  Memory().after_step(moment)
  assert moment.report == {"memory/host_peak_gb": 7}


def test_nothing_between_reports():
  moment = _moment()
  for hook in (Goodput(), Memory()):
    hook.after_step(moment)
  assert moment.report == {}

"""What is off unless asked for: traces, histograms, W&B, evaluation."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train.hooks.hook import Moment
from taskmoe_jax.train.hooks.profiling import Trace, TracedSteps
from taskmoe_jax.train.metrics.metric_writer import MetricWriter
from taskmoe_jax.train.metrics.weights_and_biases import WeightsAndBiases
from taskmoe_jax.train.step.gradient_statistics import (
  Histogram,
  histogram_report,
  histograms_every,
  histograms_of,
)


@pytest.fixture
def profiler(monkeypatch):
  """Notes what it is asked for."""
  calls = []
  monkeypatch.setattr(jax.profiler, "start_trace", calls.append)
  monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
  return calls


def _after(hook, *steps):
  for done in steps:
    moment = object.__new__(Moment)
    moment.done = done
    moment.metrics = types.SimpleNamespace(tokens=np.float32(1))
    hook.after_step(moment)


def test_chosen_steps_are_traced(profiler, tmp_path):
  said = []
  steps = TracedSteps(first_step=4, num_steps=2)
  hook = Trace(tmp_path, steps, done=0, say=said.append)
  _after(hook, 1, 2)
  assert profiler == []
  _after(hook, 3)
  assert profiler == [str(tmp_path / "profile")]
  _after(hook, 4)
  assert said == []
  _after(hook, 5, 6, 7)
  hook.close()
  assert profiler == [str(tmp_path / "profile"), "stop"]
  assert said == [
    f"traced steps 4 to 5: look at it by `tensorboard --logdir {tmp_path}"
    "/profile` (pip install xprof)"
  ]


def test_a_trace_of_the_first_step_and_one_that_is_cut_short(
  profiler, tmp_path
):
  steps = TracedSteps(first_step=4, num_steps=2)
  hook = Trace(tmp_path, steps, done=3, say=print)
  assert len(profiler) == 1
  hook.close()
  hook.close()
  assert profiler[1:] == ["stop"]
  # A run that goes on behind them traces none.
  hook = Trace(tmp_path, steps, done=4, say=print)
  _after(hook, 5, 6)
  assert len(profiler) == 2


@pytest.mark.slow
def test_parameters_as_histograms():
  params = {
    "encoder": {"scale": jnp.array([3.0, -4.0])},
    "table": jnp.ones((2, 3)),
  }
  found = histogram_report("parameters", histograms_of(params))
  assert found.keys() == {
    "parameters/encoder/scale",
    "parameters/encoder/scale/rms",
    "parameters/table",
    "parameters/table/rms",
  }
  assert found["parameters/encoder/scale/rms"] == pytest.approx(12.5**0.5)
  assert found["parameters/table/rms"] == 1
  assert found["parameters/table"].counts.sum() == 6
  # In a step, once every three.
  count = jax.jit(lambda done: histograms_every(3, done, params))
  for done, rms in ((1, 0), (3, 1), (4, 0), (6, 1)):
    assert count(jnp.int32(done))["table"].root_mean_square == rms
  assert histograms_every(None, jnp.int32(3), params) == {}


@pytest.fixture
def wandb(monkeypatch):
  """In place of the module: keeps what a run logs, by the run's id."""
  runs = {}

  def init(**settings):
    lines = runs.setdefault(settings["id"], {"settings": settings, "log": []})
    return types.SimpleNamespace(
      log=lambda values, step: lines["log"].append((step, values)),
      finish=lambda: lines.update(finished=True),
    )

  module = types.ModuleType("wandb")
  module.init = init
  module.util = types.SimpleNamespace(generate_id=lambda: f"id{len(runs)}")
  module.Histogram = lambda np_histogram: ("histogram", np_histogram)
  module.Image = lambda value: ("image", value.shape)
  monkeypatch.setitem(sys.modules, "wandb", module)
  return runs


def _report(folder, step, **metrics):
  sink = WeightsAndBiases(folder, project="moe", config={"seed": 3})
  with MetricWriter(folder, sinks=[sink]) as writer:
    writer.write(step, metrics)


def test_a_run_that_goes_on_is_one_run_of_wandb(wandb, tmp_path):
  folder = tmp_path / "a-run"
  folder.mkdir()
  _report(folder, 10, loss=2.5, overlap=np.eye(3))
  _report(folder, 20, load=np.array([0.0, 1.0]), x=Histogram.of(jnp.ones(4)))
  assert wandb.keys() == {"id0"}
  run = wandb["id0"]
  assert run["finished"]
  settings = run["settings"]
  assert (settings["project"], settings["name"]) == ("moe", "a-run")
  assert (settings["config"], settings["resume"]) == ({"seed": 3}, "allow")
  (first, values), (second, more) = run["log"]
  assert (first, second) == (10, 20)
  assert values == {"loss": 2.5, "overlap": ("image", (3, 3))}
  kind, (counts, edges) = more["x"]
  assert (kind, counts.sum(), len(edges)) == ("histogram", 4, len(counts) + 1)
  assert more["load"][1][0].sum() == 2


def test_wandb_that_is_not_installed(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, "wandb", None)
  message = r"WANDB_PROJECT='moe' needs .* `pip install wandb`, or set WANDB_P"
  with pytest.raises(TaskMoeError, match=message):
    WeightsAndBiases(tmp_path, project="moe", config={})


@pytest.mark.parametrize(
  ("make", "message"),
  [
    (
      lambda monitoring: TracedSteps(first_step=0, num_steps=1),
      r"first_step=0 is not at least 1\. Set TRACE_FIRST_STEP, or leave it",
    ),
    (
      lambda monitoring: TracedSteps(first_step=2, num_steps=0),
      "num_steps=0 is not at least 1",
    ),
    (
      lambda monitoring: monitoring(histograms_every=0),
      "histograms_every=0 is not at least 1",
    ),
    (
      lambda monitoring: monitoring({"every_steps": 0}),
      r"every_steps=0 is not at least 1\. Set EVALUATE_EVERY, or leave it",
    ),
    (
      lambda monitoring: monitoring({"loss_examples": 0}),
      "loss_examples=0 is not at least 1",
    ),
    (
      lambda monitoring: monitoring({"bleu_examples": -1}),
      "bleu_examples=-1 is not at least 0",
    ),
  ],
)
def test_what_cannot_be(monitoring, make, message):
  with pytest.raises(TaskMoeError, match=message):
    make(monitoring)


@pytest.mark.slow
def test_json_is_what_it_was(tmp_path):
  """Sinks see matrices and histograms; a line has numbers alone."""
  with MetricWriter(tmp_path) as writer:
    writer.write(1, {"x": Histogram.of(jnp.ones(4)), "loss": 2.0})
  (line,) = (tmp_path / "metrics.jsonl").read_text().splitlines()
  assert json.loads(line).keys() == {"step", "time", "loss"}

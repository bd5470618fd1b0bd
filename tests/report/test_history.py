"""What is kept of `metrics.jsonl`."""

import json
import re

import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.report.history import RECENT, read_history

LAYER = "routing/decoder/layer_1"


@pytest.fixture
def log(tmp_path):
  path = tmp_path / "metrics.jsonl"

  def write(*reports, end=""):
    lines = [f"{json.dumps(report)}\n" for report in reports]
    path.write_text("".join(lines) + end)
    return path

  return write


def test_steps_after_the_checkpoint_are_left_out(log, tmp_path):
  log(
    {"step": 2, "loss": 3.0, f"{LAYER}/load": [0.25, 0.75]},
    {"step": 4, "loss": "nan", "eval/loss": 2.5, f"{LAYER}/load": [0.5, 0.5]},
    {"step": 6, "loss": 1.0, f"{LAYER}/load": [1.0, 0.0]},
    end='{"step": 8, "los',
  )
  history = read_history(tmp_path, until=4)
  (first, second), (validation,) = (
    history.losses[name] for name in ("training", "validation")
  )
  assert (*first, second[0]) == (2, 3.0, 4)
  assert np.isnan(second[1])
  assert validation == (4, 2.5)
  ((name, (steps, loads)),) = history.loads.items()
  assert (name, steps) == ("decoder/layer_1", [2, 4])
  np.testing.assert_array_equal(loads, [[0.25, 0.75], [0.5, 0.5]])


def test_a_tasks_load_is_the_mean_of_recent_reports(log, tmp_path):
  """French was seen once, at the start."""
  log(
    {"step": 1, f"{LAYER}/task/de/load": [1, 0]},
    {"step": 2, f"{LAYER}/task/fr/load": [0.25, 0.75]},
    *(
      {"step": 3 + index, f"{LAYER}/task/de/load": [index / 10, 1 - index / 10]}
      for index in range(RECENT)
    ),
  )
  history = read_history(tmp_path, until=100)
  loads = history.task_loads["decoder/layer_1"]
  np.testing.assert_allclose(loads["de"], [0.2, 0.8], atol=1e-12)
  np.testing.assert_array_equal(loads["fr"], [0.25, 0.75])
  assert history.loads == {}


def test_no_log(tmp_path):
  history = read_history(tmp_path, until=1)
  assert (history.losses, history.loads, history.task_loads) == ({}, {}, {})


@pytest.mark.parametrize("damaged", ["{", "7", '{"loss": 1}', '{"step": "a"}'])
def test_a_damaged_line(log, tmp_path, damaged):
  path = log({"step": 1}, end=f'{damaged}\n{{"step": 3}}\n')
  message = (
    f"{str(path)!r}, line 2, is no report of a step. Take the line out, or the"
    " file from a copy."
  )
  with pytest.raises(TaskMoeError, match=re.escape(message)):
    read_history(tmp_path, until=9)

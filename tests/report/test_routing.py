"""Weights of experts by task, and which tasks share them."""

import numpy as np
import pytest

from taskmoe_jax.export.extract import extract
from taskmoe_jax.report.history import read_history
from taskmoe_jax.report.routing import StackRouting, kinship, read_routing

STEP = 7


def routing_of(made):
  folder, run, _ = made
  history = read_history(folder, until=STEP)
  return read_routing(folder, run, history, step=STEP)


def test_gates_are_those_of_the_sub_networks(run_of):
  made = run_of("task", "static")
  encoder, decoder = routing_of(made)
  _, run, params = made
  tasks = run.task_space.tasks
  assert encoder.tasks == decoder.tasks == tasks == ("en", "de", "fr")
  assert encoder.layers == (1, 3)
  assert encoder.weights.shape == (2, 3, 5)
  for index in range(3):
    _, _, chosen = extract(params, run.model, (index,), 3)
    for block in range(2):
      row = np.zeros(5)
      row[chosen["encoder"].experts[block]] = chosen["encoder"].gates[block]
      np.testing.assert_allclose(encoder.weights[block, index], row, atol=1e-6)
  assert encoder.about.startswith(
    "The gates of each task's 2 experts, from the routers of step 7"
  )
  # Dealt out: 0 1, 2 3, 4 0.
  np.testing.assert_array_equal(
    decoder.weights[1],
    [[0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0.5, 0, 0, 0, 0.5]],
  )
  assert decoder.about == (
    "Dealt out by a fixed table: a task's experts have equal weight."
  )


@pytest.mark.parametrize(
  ("granularity", "decides"),
  [
    ("token", "Each token chooses among all experts"),
    ("sentence", "Each sentence chooses among all experts"),
    ("word", "Each word of the vocabulary has its experts"),
    (
      "task_then_token",
      "A task has a few candidates, and each of its tokens chooses among them",
    ),
  ],
)
def test_where_text_decides_it_is_load(run_of, granularity, decides):
  """French was not seen in both layers, and so is named as missing."""
  rows = {"en": [0.5, 0.5, 0, 0, 0], "de": [0, 0.25, 0.25, 0.5, 0]}
  report = {"step": STEP}
  for layer in (1, 3):
    for task, row in rows.items():
      report[f"routing/decoder/layer_{layer}/task/{task}/load"] = row
  report["routing/decoder/layer_3/task/fr/load"] = [1, 0, 0, 0, 0]
  encoder, decoder = routing_of(run_of(None, granularity, [report]))
  assert encoder == StackRouting(
    "encoder",
    "It is dense: it has no experts, and every task meets the same.",
  )
  assert decoder.layers == (1, 3)
  assert decoder.tasks == ("en", "de")
  np.testing.assert_array_equal(decoder.weights, [list(rows.values())] * 2)
  assert decoder.about == (
    f"{decides}, so these are no gates but loads: the share of a task's choices"
    " that fell on each expert, the mean of up to 5 last reports until step 7"
    " in metrics.jsonl. Not seen in training until then: fr."
  )


def test_without_a_log_there_is_a_reason(run_of):
  _, decoder = routing_of(run_of(None, "token"))
  assert decoder.weights is None
  assert decoder.about == (
    "Each token chooses among all experts, so which experts serve a task only"
    " the training's log could tell: metrics.jsonl has no load of tasks up to"
    " step 7."
  )


def test_without_a_log_candidates_are_known(run_of):
  made = run_of("task_then_token", None)
  encoder, _ = routing_of(made)
  _, run, params = made
  for index, task in enumerate(run.task_space.tasks):
    _, _, chosen = extract(params, run.model, (index,), 3)
    for block in range(2):
      (found,) = np.nonzero(encoder.weights[block, index])
      np.testing.assert_array_equal(found, chosen["encoder"].experts[block])
    assert encoder.tasks[index] == task
  np.testing.assert_allclose(encoder.weights.max(-1), 1 / 3)
  np.testing.assert_allclose(encoder.weights.sum(-1), 1.0)
  assert encoder.about == (
    "A task has a few candidates, and each of its tokens chooses among them:"
    " these are its 3 candidates, from the routers of step 7, all equally"
    " strong, since metrics.jsonl has no load of tasks up to step 7."
  )


def test_tasks_that_share_experts_are_neighbours():
  """A and c share 0.75 in one layer, all in the other; b shares nothing."""
  weights = np.asarray(
    [
      [[0.75, 0.25, 0, 0], [0, 0, 1, 0], [1, 0, 0, 0]],
      [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5], [0.5, 0.5, 0, 0]],
    ]
  )
  kin = kinship(StackRouting("decoder", "", (1, 3), ("a", "b", "c"), weights))
  assert kin.tasks in (
    ("a", "c", "b"),
    ("c", "a", "b"),
    ("b", "a", "c"),
    ("b", "c", "a"),
  )
  places = [kin.tasks.index(task) for task in "abc"]
  np.testing.assert_array_equal(
    kin.shared[np.ix_(places, places)],
    [[1, 0, 0.875], [0, 1, 0], [0.875, 0, 1]],
  )
  np.testing.assert_allclose(kin.merges[:, 2], [0.125, 1.0])
  assert sorted(kin.merges[0, :2]) == [0, 2]

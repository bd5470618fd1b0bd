import numpy as np
import pytest

from taskmoe_jax.moe.statistics import RoutingStatistics
from taskmoe_jax.train.metrics.metric_sums import MetricSums
from taskmoe_jax.train.step.step import StepMetrics


def _statistics(choices, losses=(0, 0), entropies=0, drops=0):
  """Of a stack with one MoE layer a block.

  Args:
    choices: `[blocks, tasks, experts]`; every token makes two.
    losses: Balance loss and z-loss, of all blocks.
    entropies: Sums, of every block and task.
    drops: Likewise.
  """
  choices = np.array(choices, np.float32)
  per_block = np.zeros(choices.shape[:1], np.float32)
  per_task = np.zeros(choices.shape[:2], np.float32)
  return RoutingStatistics(
    balance_loss=per_block + losses[0],
    z_loss=per_block + losses[1],
    task_tokens=choices.sum(-1) / 2,
    task_choices=choices,
    task_entropies=per_task + np.asarray(entropies, np.float32),
    task_drops=per_task + np.asarray(drops, np.float32),
  )


def _metrics(
  loss,
  correct,
  tokens,
  pair_loss,
  pair_tokens,
  norm,
  routing,
  *,
  z_loss=0,
  rate=0.25,
  skipped=0,
  fill=0.5,
):
  return StepMetrics(
    *(np.asarray(x, np.float32) for x in (loss, correct, tokens)),
    np.array(pair_loss, np.float32),
    np.array(pair_tokens, np.float32),
    *(np.asarray(x, np.float32) for x in (z_loss, fill, norm)),
    {"routers": np.asarray(norm / 2, np.float32)},
    *(np.asarray(x, np.float32) for x in (rate, skipped)),
    routing,
  )


def test_a_report_by_hand(model_config, space):
  sums = MetricSums(model_config(), space)
  # The pairs are en-de, de-en, en-fr, fr-en.
  steps = [
    _metrics(
      *(30, 2, 10, [12, 0, 18, 0], [4, 0, 6, 0], 3), {}, z_loss=12, fill=1
    ),
    _metrics(
      *(60, 7, 20, [20, 0, 0, 40], [10, 0, 0, 10], 5), {}, z_loss=3, rate=0.5
    ),
  ]
  for step in steps:
    sums.add(step)
  assert sums.report() == {
    "loss": 3.0,
    "accuracy": 0.3,
    "z_loss": 0.5,
    "learning_rate": 0.5,
    "gradient_norm": 4.0,
    "gradient_norm/routers": 2.0,
    "data/row_fill": 0.75,
    "tokens": 30.0,
    "skipped_updates": 0,
    "loss/pair/en-de": pytest.approx(32 / 14),
    "loss/pair/en-fr": 3.0,
    "loss/pair/fr-en": 4.0,
  }


def test_skipped_steps_are_counted_and_left_out(model_config, space):
  sums = MetricSums(model_config(), space)
  nan = float("nan")
  broken = _metrics(
    *(nan, 0, 10, [nan, 0, 0, 0], [10, 0, 0, 0], nan), {}, skipped=1
  )
  right = _metrics(*(60, 7, 20, [0, 60, 0, 0], [0, 20, 0, 0], 5), {})
  for step in (broken, right, broken):
    sums.add(step)
  report = sums.report()
  assert (report["loss"], report["gradient_norm"]) == (3.0, 5.0)
  assert (report["skipped_updates"], report["tokens"]) == (2, 40.0)
  assert "loss/pair/en-de" not in report
  # A loss of nothing but skipped steps must not look like a good one.
  sums.add(broken)
  report = sums.report()
  assert np.isnan(report["loss"])
  assert report["skipped_updates"] == 1


def _routing(report, layer):
  """What a report says of a layer, lists for arrays."""
  prefix = f"routing/{layer}/"
  return {
    name.removeprefix(prefix): np.asarray(value).tolist()
    for name, value in report.items()
    if name.startswith(prefix)
  }


def test_routing_by_hand(model_config, space):
  """Means are over tokens: 4 of the first step, 8 of the second.

  Of the tasks, which are en, de and fr, the first step sees en and de with 3
  tokens and 1, the second en and fr with 4 and 4.
  """
  sums = MetricSums(model_config(), space)
  first = _statistics(
    [[[2, 2, 2, 0], [0, 0, 1, 1], [0] * 4]], (1, 4), [[3, 2, 0]], [[1, 0, 0]]
  )
  second = _statistics(
    [[[6, 2, 0, 0], [0] * 4, [0, 0, 0, 8]]], (4, 10), [[6, 0, 1]], [[2, 0, 8]]
  )
  for statistics in (first, second):
    routing = {"decoder": statistics}
    sums.add(_metrics(1, 0, 1, [1] * 4, [1] * 4, 1, routing))
  report = sums.report()
  # en: 8 4 2 0 of 14; de: 0 0 1 1 of 2; fr: 0 0 0 8 of 8.
  loads = {
    "en": [8 / 14, 4 / 14, 2 / 14, 0],
    "de": [0, 0, 0.5, 0.5],
    "fr": [0, 0, 0, 1.0],
  }
  overlaps = {"en-de": 1 / 7, "en-fr": 0, "de-fr": 0.5}
  float32 = lambda load: np.float32(load).tolist()  # noqa: E731
  assert _routing(report, "decoder/layer_1") == {
    "load": float32([8 / 24, 4 / 24, 3 / 24, 9 / 24]),
    "entropy": pytest.approx(12 / 12),
    "dropped": pytest.approx(11 / 24),
    "balance_loss": pytest.approx((4 * 1 + 8 * 4) / 12),
    "z_loss": pytest.approx((4 * 4 + 8 * 10) / 12),
    **{f"task/{task}/load": float32(load) for task, load in loads.items()},
    "task/en/entropy": pytest.approx(9 / 7),
    "task/de/entropy": 2.0,
    "task/fr/entropy": 0.25,
    "task/en/dropped": pytest.approx(3 / 14),
    "task/de/dropped": 0.0,
    "task/fr/dropped": 1.0,
    "overlap": [
      pytest.approx([1, overlaps["en-de"], overlaps["en-fr"]]),
      pytest.approx([overlaps["en-de"], 1, overlaps["de-fr"]]),
      pytest.approx([overlaps["en-fr"], overlaps["de-fr"], 1]),
    ],
    "overlap_mean": pytest.approx(sum(overlaps.values()) / 3),
  }


def test_only_tasks_that_were_seen(model_config, space):
  sums = MetricSums(model_config(), space)
  one = _statistics([[[0] * 4, [0, 1, 1, 0], [0] * 4]])
  sums.add(_metrics(1, 0, 1, [1] * 4, [1] * 4, 1, {"encoder": one}))
  found = _routing(sums.report(), "encoder/layer_1")
  assert found.keys() == {
    *("load", "entropy", "dropped", "balance_loss", "z_loss"),
    *("task/de/load", "task/de/entropy", "task/de/dropped"),
  }


def test_a_step_of_padding_counts_for_nothing(model_config, space):
  sums = MetricSums(model_config(), space)
  nothing = _statistics([[[0] * 4] * 3], (7, 7))
  some = _statistics([[[2, 0, 0, 0], [0] * 4, [0] * 4]], (3, 5))
  for statistics in (nothing, some):
    routing = {"encoder": statistics}
    sums.add(_metrics(1, 0, 1, [1] * 4, [1] * 4, 1, routing))
  found = _routing(sums.report(), "encoder/layer_1")
  assert (found["balance_loss"], found["z_loss"]) == (3, 5)
  sums.add(_metrics(1, 0, 1, [1] * 4, [1] * 4, 1, {"encoder": nothing}))
  found = _routing(sums.report(), "encoder/layer_1")
  assert found.pop("load") == [0] * 4
  assert set(found.values()) == {0}


def test_each_report_begins_anew(model_config, space):
  sums = MetricSums(model_config(), space)
  for loss in (10, 20):
    sums.add(_metrics(loss, 0, 5, [loss, 0, 0, 0], [5, 0, 0, 0], 1, {}))
    report = sums.report()
    assert report["loss"] == loss / 5
    assert "loss/pair/de-en" not in report


def test_layers_are_counted_in_the_stack(model_config, space):
  """Blocks of three layers, the last of them MoE: layers 2 and 5."""
  config = model_config()
  decoder = type(config.decoder)(
    num_layers=6, mlp_dims=(7, 7), moe=config.decoder.moe
  )
  config = model_config(decoder=decoder)
  sums = MetricSums(config, space)
  of_task = [[1, 0, 0, 0], [0, 0, 0, 1]]
  statistics = _statistics(
    [[of_block, [0] * 4, [0] * 4] for of_block in of_task]
  )
  sums.add(_metrics(1, 0, 1, [1] * 4, [1] * 4, 1, {"decoder": statistics}))
  report = sums.report()
  assert report["routing/decoder/layer_2/load"].tolist() == [1, 0, 0, 0]
  assert report["routing/decoder/layer_5/load"].tolist() == [0, 0, 0, 1]


def test_no_target_token_is_no_loss(model_config, space):
  sums = MetricSums(model_config(), space)
  sums.add(_metrics(0, 0, 0, [0] * 4, [0] * 4, 0, {}))
  report = sums.report()
  assert (report["loss"], report["accuracy"]) == (0, 0)

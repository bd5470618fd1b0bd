import numpy as np
import pytest

from taskmoe_jax.moe.layer import RoutingStatistics
from taskmoe_jax.train.metrics import MetricSums
from taskmoe_jax.train.step import StepMetrics


def _statistics(load, number):
  """Of a stack with one MoE layer a block."""
  values = np.full((len(load),), number, np.float32)
  return RoutingStatistics(
    balance_loss=values,
    z_loss=values + 1,
    load=np.array(load, np.float32),
    entropy=values + 2,
    dropped=values + 3,
  )


def _metrics(loss, correct, tokens, pair_loss, pair_tokens, norm, routing):
  return StepMetrics(
    *(np.asarray(x, np.float32) for x in (loss, correct, tokens)),
    np.array(pair_loss, np.float32),
    np.array(pair_tokens, np.float32),
    np.asarray(norm, np.float32),
    routing,
  )


def test_a_report_by_hand(model_config, space):
  sums = MetricSums(model_config(), space)
  # The pairs are en-de, de-en, en-fr, fr-en.
  steps = [
    _metrics(
      *(30, 2, 10, [12, 0, 18, 0], [4, 0, 6, 0], 3),
      {
        "encoder": _statistics([[0.5, 0.5, 0, 0]], 1),
        "decoder": _statistics([[0.25, 0.25, 0.25, 0.25]], 10),
      },
    ),
    _metrics(
      *(60, 7, 20, [20, 0, 0, 40], [10, 0, 0, 10], 5),
      {
        "encoder": _statistics([[0, 0.5, 0.5, 0]], 2),
        "decoder": _statistics([[1, 0, 0, 0]], 20),
      },
    ),
  ]
  for step in steps:
    sums.add(step)
  report = sums.report(0.25)
  loads = {name: report.pop(name) for name in list(report) if "load" in name}
  assert report == {
    "loss": 3.0,
    "accuracy": 0.3,
    "learning_rate": 0.25,
    "gradient_norm": 4.0,
    "tokens": 30.0,
    "loss/pair/en-de": pytest.approx(32 / 14),
    "loss/pair/en-fr": 3.0,
    "loss/pair/fr-en": 4.0,
    "routing/encoder/layer_1/balance_loss": 1.5,
    "routing/encoder/layer_1/z_loss": 2.5,
    "routing/encoder/layer_1/entropy": 3.5,
    "routing/encoder/layer_1/dropped": 4.5,
    "routing/decoder/layer_1/balance_loss": 15.0,
    "routing/decoder/layer_1/z_loss": 16.0,
    "routing/decoder/layer_1/entropy": 17.0,
    "routing/decoder/layer_1/dropped": 18.0,
  }
  assert {name: load.tolist() for name, load in loads.items()} == {
    "routing/encoder/layer_1/load": [0.25, 0.5, 0.25, 0.0],
    "routing/decoder/layer_1/load": [0.625, 0.125, 0.125, 0.125],
  }


def test_each_report_begins_anew(model_config, space):
  sums = MetricSums(model_config(), space)
  for loss in (10, 20):
    sums.add(_metrics(loss, 0, 5, [loss, 0, 0, 0], [5, 0, 0, 0], 1, {}))
    report = sums.report(1)
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
  statistics = _statistics([[1, 0, 0, 0], [0, 0, 0, 1]], 1)
  sums.add(_metrics(1, 0, 1, [1] * 4, [1] * 4, 1, {"decoder": statistics}))
  report = sums.report(1)
  assert report["routing/decoder/layer_2/load"].tolist() == [1, 0, 0, 0]
  assert report["routing/decoder/layer_5/load"].tolist() == [0, 0, 0, 1]


def test_no_target_token_is_no_loss(model_config, space):
  sums = MetricSums(model_config(), space)
  sums.add(_metrics(0, 0, 0, [0] * 4, [0] * 4, 0, {}))
  report = sums.report(1)
  assert (report["loss"], report["accuracy"]) == (0, 0)

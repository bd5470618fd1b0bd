"""Learning rates at steps one can work out by hand."""

import math

import jax
import jax.numpy as jnp
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train import schedules


def test_the_papers_rate_peaks_where_it_says():
  schedule = schedules.transformer_schedule(
    3.0, warmup_steps=40_000, embed_dim=512
  )
  assert float(schedule(39_999)) == pytest.approx(6.63e-4, abs=5e-7)
  assert float(schedule(39_998)) < float(schedule(39_999))
  assert float(schedule(40_000)) < float(schedule(39_999))


@pytest.mark.parametrize(
  ("step", "rate"),
  [
    (0, 2.0 / 3 * 1 / 8),  # 2 * 9^-0.5 * (0 + 1) * 4^-1.5
    (1, 2.0 / 3 * 2 / 8),
    (3, 2.0 / 3 * 1 / 2),  # the peak, 4^-0.5
    (15, 2.0 / 3 * 1 / 4),  # 16^-0.5
    (99, 2.0 / 3 * 1 / 10),
  ],
)
def test_transformer_schedule_by_hand(step, rate):
  schedule = schedules.transformer_schedule(2.0, warmup_steps=4, embed_dim=9)
  assert float(schedule(step)) == pytest.approx(rate)


@pytest.mark.parametrize(
  ("step", "rate"), [(0, 1.5), (3, 1.5), (4, 1.5), (9, 1.0), (100, 0.3)]
)
def test_rsqrt_schedule_by_hand(step, rate):
  schedule = schedules.rsqrt_schedule(3.0, warmup_steps=4)
  assert float(schedule(step)) == pytest.approx(rate)


def test_the_papers_other_reading():
  schedule = schedules.rsqrt_schedule(3.0, warmup_steps=40_000)
  assert float(schedule(0)) == pytest.approx(0.015)
  assert float(schedule(160_000)) == pytest.approx(3 / math.sqrt(160_000))


@pytest.mark.parametrize(
  "schedule",
  [
    schedules.transformer_schedule(3.0, warmup_steps=5, embed_dim=7),
    schedules.rsqrt_schedule(3.0, warmup_steps=5),
  ],
)
def test_schedules_trace(schedule):
  rate = jax.jit(schedule)(jnp.int32(11))
  assert rate.dtype == jnp.float32
  assert float(rate) == pytest.approx(float(schedule(11)))


@pytest.mark.parametrize("name", ["learning_rate", "warmup_steps", "embed_dim"])
def test_transformer_schedule_refuses(name):
  values = {"learning_rate": 3.0, "warmup_steps": 40, "embed_dim": 512}
  values[name] = type(values[name])(0)
  message = rf"{name}=0(\.0)? is not above 0. Set transformer_schedule.{name}."
  with pytest.raises(TaskMoeError, match=message):
    schedules.transformer_schedule(**values)


def test_rsqrt_schedule_refuses():
  message = r"warmup_steps=-3 is not above 0. Set rsqrt_schedule.warmup_steps."
  with pytest.raises(TaskMoeError, match=message):
    schedules.rsqrt_schedule(1.0, warmup_steps=-3)
  message = r"learning_rate=0.0 is not above 0. Set rsqrt_schedule.learning_r"
  with pytest.raises(TaskMoeError, match=message):
    schedules.rsqrt_schedule(0.0, warmup_steps=3)


def test_cosine_by_hand():
  schedule = schedules.cosine_schedule(
    2.0, warmup_steps=4, train_steps=12, final=0.1
  )
  expected = {0: 0, 2: 1, 4: 2, 8: (2 + 0.2) / 2, 12: 0.2, 50: 0.2}
  for step, rate in expected.items():
    assert float(schedule(step)) == pytest.approx(rate), step
  without = schedules.cosine_schedule(
    2.0, warmup_steps=0, train_steps=8, final=0.0
  )
  assert float(without(0)) == pytest.approx(2.0)
  assert float(without(4)) == pytest.approx(1.0)


def test_wsd_by_hand():
  schedule = schedules.wsd_schedule(
    2.0, warmup_steps=4, train_steps=20, decay_steps=8, final=0.25
  )
  expected = {0: 0, 1: 0.5, 4: 2, 11: 2, 12: 2, 16: 1.25, 20: 0.5, 99: 0.5}
  for step, rate in expected.items():
    assert float(schedule(step)) == pytest.approx(rate), step
  flat = schedules.wsd_schedule(
    2.0, warmup_steps=0, train_steps=9, decay_steps=1, final=0.0
  )
  assert [float(flat(step)) for step in (0, 8, 9)] == [2.0, 2.0, 0.0]


@pytest.mark.parametrize(
  ("name", "changes", "message"),
  [
    (
      "cosine",
      {"warmup_steps": 9},
      "warmup_steps=9 is not within train_st",
    ),
    ("cosine", {"final": 1.5}, r"final=1\.5 is outside \[0, 1\]"),
    ("wsd", {"decay_steps": 7}, "warmup_steps=3 and decay_steps=7 do not fit"),
    ("wsd", {"learning_rate": 0.0}, r"learning_rate=0\.0 is not above 0"),
  ],
)
def test_phases_that_cannot_be(name, changes, message):
  values = {
    "learning_rate": 2.0,
    "warmup_steps": 3,
    "train_steps": 9,
    "final": 0.5,
  }
  if name == "wsd":
    values["decay_steps"] = 2
  values = {**values, **changes}
  with pytest.raises(TaskMoeError, match=message.replace("=0 is", r"=0\.0 is")):
    getattr(schedules, f"{name}_schedule")(**values)

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

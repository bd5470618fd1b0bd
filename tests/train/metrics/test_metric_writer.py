"""metrics.jsonl reads like one unbroken run, whatever happened to it."""

import json
import struct

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train.metrics import metric_writer
from taskmoe_jax.train.metrics.tensorboard import TensorBoard
from taskmoe_jax.train.step.gradient_statistics import Histogram


def open_writer(folder, *, resume_step=0, **options):
  """With the sink that every run has."""
  sinks = [TensorBoard(folder / "tensorboard", resume_step=resume_step)]
  return metric_writer.MetricWriter(
    folder, resume_step=resume_step, sinks=sinks, **options
  )


def read_lines(folder):
  text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
  assert text == "" or text.endswith("\n")
  return [
    json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()
  ]


def read_events(folder):
  """The events of all files, oldest file first.

  A record is its length (8 bytes), a checksum (4), the event, a checksum (4).
  """
  events = []
  for path in sorted((folder / "tensorboard").iterdir()):
    data = path.read_bytes()
    while data:
      (length,) = struct.unpack("<Q", data[:8])
      events.append(event_pb2.Event.FromString(data[12 : 12 + length]))
      data = data[12 + length + 4 :]
  return events


def read_scalars(folder):
  return [
    (event.step, value.tag, value.simple_value)
    for event in read_events(folder)
    for value in event.summary.value
    if value.HasField("simple_value")
  ]


def test_lines_and_scalars(tmp_path):
  folder = tmp_path / "new" / "run"
  with open_writer(folder, clock=lambda: 12.5) as writer:
    writer.write(1, {"loss": 3.25, "loss/pair/de-en": np.float32(4.5)})
    writer.write(2, {"loss": jnp.bfloat16(2.5), "examples": jnp.int32(7)})
  assert read_lines(folder) == [
    {"step": 1, "time": 12.5, "loss": 3.25, "loss/pair/de-en": 4.5},
    {"step": 2, "time": 12.5, "loss": 2.5, "examples": 7},
  ]
  assert read_scalars(folder) == [
    (1, "loss", 3.25),
    (1, "loss/pair/de-en", 4.5),
    (2, "loss", 2.5),
    (2, "examples", 7.0),
  ]
  assert {e.wall_time for e in read_events(folder) if e.summary.value} == {12.5}


def test_a_line_is_on_disk_at_once(tmp_path):
  writer = open_writer(tmp_path)
  writer.write(1, {"loss": 3.25})
  assert [line["loss"] for line in read_lines(tmp_path)] == [3.25]
  writer.close()


def test_numbers_that_json_cannot_hold(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(
      1, {"a": np.nan, "b": np.inf, "c": -np.inf, "d": np.array([np.nan, 1.0])}
    )
  (line,) = read_lines(tmp_path)
  assert (line["a"], line["b"], line["c"]) == ("nan", "inf", "-inf")
  assert line["d"] == ["nan", 1.0]
  assert float(line["c"]) == -np.inf
  tags = [v.tag for event in read_events(tmp_path) for v in event.summary.value]
  assert tags == ["a", "b", "c"]


def test_arrays_are_lists_and_histograms(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(3, {"load": jnp.array([0.0, 0.75, 0.25, 0.5, 0.0, 1.0])})
  (line,) = read_lines(tmp_path)
  assert line["load"] == [0.0, 0.75, 0.25, 0.5, 0.0, 1.0]
  (histogram,) = [
    value.histo
    for event in read_events(tmp_path)
    for value in event.summary.value
  ]
  assert (histogram.num, histogram.min, histogram.max) == (6, 0.0, 1.0)
  assert histogram.sum == pytest.approx(2.5)


def test_numbers_are_written_with_the_digits_they_have(tmp_path):
  with open_writer(tmp_path) as writer:
    writer.write(1, {"load": np.array([0.1, 1 / 3], np.float32), "loss": 1 / 3})
  text = (tmp_path / "metrics.jsonl").read_text()
  assert '"load": [0.1, 0.33333334]' in text
  assert '"loss": 0.3333333333333333' in text


def test_a_matrix_is_a_picture_in_tensorboard_alone(tmp_path):
  with open_writer(tmp_path, clock=lambda: 12.5) as writer:
    writer.write(3, {"overlap": np.array([[1.0, 0.25, 0], [0.25, 1, 0.5]])})
  (line,) = read_lines(tmp_path)
  assert line.keys() == {"step", "time"}
  ((event, value),) = [
    (event, value)
    for event in read_events(tmp_path)
    for value in event.summary.value
  ]
  assert (event.step, event.wall_time, value.tag) == (3, 12.5, "overlap")
  assert (value.image.height, value.image.width) == (16, 24)
  assert value.image.encoded_image_string.startswith(b"\x89PNG")


@pytest.mark.slow
def test_histograms_counted_elsewhere(tmp_path):
  """Five numbers, one of which is none."""
  numbers = jnp.array([-1.0, 0.0625, 0.5625, 3.0, jnp.nan])
  with open_writer(tmp_path) as writer:
    writer.write(3, {"parameters/x": Histogram.of(numbers)})
  (line,) = read_lines(tmp_path)
  assert line.keys() == {"step", "time"}
  (histogram,) = [
    value.histo
    for event in read_events(tmp_path)
    for value in event.summary.value
  ]
  assert (histogram.num, histogram.min, histogram.max) == (4, -1.0, 3.0)
  assert histogram.sum == 2.625
  # Forty bins of 0.1: -1 is in the first, 3 in the last.
  assert list(np.flatnonzero(histogram.bucket)) == [0, 10, 15, 39]
  assert histogram.bucket_limit[0] == pytest.approx(-0.9)


# Lists are long as JSON; matrices are not in it.
@pytest.mark.slow
@pytest.mark.parametrize(
  ("value", "file"), [(np.arange(300) / 7, "metrics"), (np.eye(9), "events")]
)
def test_a_full_disk_is_an_error_and_no_wait(tmp_path, no_room, value, file):
  def report():
    with open_writer(tmp_path) as writer:
      for step in range(1000):
        writer.write(step, {f"name {number}": value for number in range(40)})

  with no_room(50_000), pytest.raises(OSError, match="File too large"):
    report()
  full = [p.name for p in tmp_path.rglob("*") if p.stat().st_size == 50_000]
  assert [name.split(".")[0] for name in full] == [file]


def write_steps(folder, steps, loss, **options):
  with open_writer(folder, **options) as writer:
    for step in steps:
      writer.write(step, {"loss": loss})


def test_resume_takes_back_what_came_after_the_checkpoint(tmp_path):
  write_steps(tmp_path, [10, 20, 30, 40], 1.0)
  write_steps(tmp_path, [30, 40, 50], 2.0, resume_step=20)
  found = [(line["step"], line["loss"]) for line in read_lines(tmp_path)]
  assert found == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0), (50, 2.0)]
  assert {path.name for path in tmp_path.iterdir()} == {
    *("metrics.jsonl", "tensorboard")
  }


def test_resume_tells_tensorboard(tmp_path):
  write_steps(tmp_path, [20, 30], 1.0, resume_step=20)
  start = event_pb2.SessionLog.START
  purged = [
    event.step
    for event in read_events(tmp_path)
    if event.HasField("session_log") and event.session_log.status == start
  ]
  assert purged == [21]


def test_a_run_without_a_checkpoint_begins_again(tmp_path):
  write_steps(tmp_path, [0, 10, 20], 1.0)
  write_steps(tmp_path, [10], 2.0)
  found = [(line["step"], line["loss"]) for line in read_lines(tmp_path)]
  assert found == [(0, 1.0), (10, 2.0)]


@pytest.mark.parametrize("end", ['{"step": 30, "lo', '{"step": 3', "{", "3"])
def test_a_line_cut_short_is_dropped(tmp_path, end):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 10, "loss": 1.0}\n' + end)
  write_steps(tmp_path, [40], 2.0, resume_step=35)
  assert [line["step"] for line in read_lines(tmp_path)] == [10, 40]


def test_a_whole_line_without_its_line_break_is_kept(tmp_path):
  path = tmp_path / "metrics.jsonl"
  path.write_text('{"step": 10}\n{"step": 20}')
  write_steps(tmp_path, [40], 2.0, resume_step=35)
  assert [line["step"] for line in read_lines(tmp_path)] == [10, 20, 40]


@pytest.mark.parametrize("wrong", ['{"loss": 1.0}', "[3]", "x", ""])
def test_a_strange_line_is_an_error(tmp_path, wrong):
  path = tmp_path / "metrics.jsonl"
  before = '{"step": 10}\n' + wrong + '\n{"step": 20}\n'
  path.write_text(before)
  message = r"metrics.jsonl:2 is not a line of metrics with a step: .* Correct"
  with pytest.raises(TaskMoeError, match=message):
    open_writer(tmp_path, resume_step=35)
  assert path.read_text() == before


@pytest.mark.parametrize("name", ["step", "time"])
def test_names_of_our_own_are_taken(tmp_path, name):
  with (
    open_writer(tmp_path) as writer,
    pytest.raises(AssertionError, match=name),
  ):
    writer.write(1, {name: 3.0})

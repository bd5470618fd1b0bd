"""The progress of a run, on a terminal and in a log, by an injected clock."""

import io
import re

import pytest
import rich.console

from taskmoe_jax.train.hooks import reporting


class Clock:
  """Seconds that pass only when told."""

  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


def make_console(terminal):
  return rich.console.Console(
    file=io.StringIO(),
    force_terminal=terminal,
    force_interactive=terminal,
    width=120,
    _environ={},
  )


def test_plain_lines():
  console, clock = make_console(terminal=False), Clock()
  with reporting.Progress(2000, 0, console, clock=clock) as shown:
    # 60 s for the first 100 steps, compilation included, then 20 s for each.
    clock.now += 60
    shown.report(
      100, {"loss": 3.2144, "accuracy": 0.4117, "tokens_per_second": 12345.6}
    )
    clock.now += 20
    shown.report(200, {"loss": 3.0, "tokens_per_second": 950.0, "other": 1.0})
    clock.now += 20
    shown.report(300, {"mfu": 0.41, "eval/loss": 2.5, "eval/bleu": 17.25})
  assert console.file.getvalue() == (
    "step 100/2000  loss 3.214  accuracy 0.412  12.3k tokens/s  ETA 19:00\n"
    "step 200/2000  loss 3.000  950 tokens/s  ETA 6:00\n"
    "step 300/2000  eval loss 2.500  eval bleu 17.2  mfu 0.410  ETA 5:40\n"
  )


def test_a_resumed_run_counts_its_own_steps():
  console, clock = make_console(terminal=False), Clock()
  with reporting.Progress(70, 50, console, clock=clock) as shown:
    clock.now += 7
    shown.report(50, {})
    clock.now += 30
    shown.report(60, {})
    clock.now += 30
    shown.report(70, {})
  assert console.file.getvalue() == (
    "step 50/70  ETA ?\nstep 60/70  ETA 0:30\nstep 70/70  ETA 0:00\n"
  )


def test_lines_are_not_wrapped_and_not_coloured():
  console, clock = make_console(terminal=False), Clock()
  console.width = 20
  with reporting.Progress(2000, 0, console, clock=clock) as shown:
    clock.now += 1
    shown.report(100, {"loss": 3.0, "accuracy": 0.5})
  assert len(console.file.getvalue().splitlines()) == 1
  assert "\x1b" not in console.file.getvalue()


def test_bar_on_a_terminal():
  console, clock = make_console(terminal=True), Clock()
  with reporting.Progress(2000, 500, console, clock=clock) as shown:
    clock.now += 60
    shown.report(600, {"loss": 9.0})
    clock.now += 80
    shown.report(700, {"loss": 3.2144, "tokens_per_second": 12345.6})
  drawn = console.file.getvalue()
  plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn)
  first, *_, last = re.split(r"[\r\n]+", plain.strip())
  assert first.startswith("step 500/2000 ")
  assert "compiling" in first
  assert last.startswith("step 700/2000 ")
  assert "━" in last
  assert "loss 3.214  12.3k tokens/s  ETA 17:20" in last
  assert last.endswith("0:02:20")
  assert "\x1b" in drawn


@pytest.mark.parametrize(
  ("number", "text"),
  [(7.25, "7.25"), (950.0, "950"), (12345.0, "12.3k"), (1.25e6, "1.25M")],
)
def test_count(number, text):
  assert reporting._count(number) == text


@pytest.mark.parametrize(
  ("seconds", "text"),
  [(0.0, "0:00"), (59.6, "1:00"), (250.0, "4:10"), (7265.0, "2:01:05")],
)
def test_duration(seconds, text):
  assert reporting._duration(seconds) == text

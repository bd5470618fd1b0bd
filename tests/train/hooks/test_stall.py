"""A run that hangs is ended; one that goes on, or ends, is not."""

import os
import subprocess
import sys
import threading

import pytest

from taskmoe_jax.hosts.liveness import LOST
from taskmoe_jax.train.hooks.hook import Moment
from taskmoe_jax.train.hooks.stall import Stall


def _moment(done):
  """Of which nothing else is looked at."""
  moment = object.__new__(Moment)
  moment.done = done
  return moment


@pytest.fixture
def ends():
  return threading.Event()


@pytest.fixture
def stall(ends):
  """A hook that waits a tenth of a second, and what it said."""
  said = []
  hook = Stall(0.1 / 60, lambda reason: (said.append(reason), ends.set()))
  hook.said = said
  yield hook
  hook.close()


def test_nothing_follows_a_step(stall, ends):
  stall.after_step(_moment(3))
  stall.after_step(_moment(4))
  assert ends.wait(30)
  assert stall.said == [
    "nothing has followed step 4 for 0.00166667 minutes"
    " (DivergencePolicy.stall_minutes)"
  ]


@pytest.mark.slow
def test_not_before_the_first_step_and_not_after_the_last(stall, ends):
  assert not ends.wait(0.3)
  stall.after_step(_moment(1))
  stall.close()
  assert not ends.wait(0.3)


def test_without_a_limit_no_thread_is_started():
  before = threading.enumerate()
  hook = Stall(None)
  hook.after_step(_moment(1))
  assert threading.enumerate() == before
  hook.close()
  assert threading.enumerate() == before


@pytest.mark.slow
def test_the_process_ends_and_says_where_it_stood():
  program = """if True:
    import time
    from taskmoe_jax.train.hooks.hook import Moment
    from taskmoe_jax.train.hooks.stall import Stall

    def hang():
      time.sleep(60)

    Stall(0.1 / 60).after_step(Moment(7, 9, *[None] * 4))
    hang()
  """
  ended = subprocess.run(
    [sys.executable, "-c", program],
    capture_output=True,
    text=True,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    check=False,
  )
  assert ended.returncode == LOST
  assert "in hang" in ended.stderr
  assert "nothing has followed step 7" in ended.stderr
  assert "set STALL_MINUTES higher" in ended.stderr

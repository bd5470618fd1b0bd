"""One trainer a run directory, and none that a dead one keeps out."""

import json
import os
import subprocess
import sys
import time

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train.hooks.run_lock import RunLock

QUICK = 0.05


@pytest.fixture
def path(tmp_path):
  return tmp_path / "lock.json"


def write(path, **changes):
  """The lock of a trainer on another host."""
  content = {"host": "far-away", "pid": 7, "start": "x", "token": "t"}
  path.write_text(json.dumps({**content, "beat": 0, **changes}))


def test_a_second_trainer_is_refused_until_the_first_has_ended(tmp_path, path):
  with RunLock(tmp_path) as lock:
    with (
      pytest.raises(
        TaskMoeError,
        match=rf"process {os.getpid()} on host '.*' is already training in"
        r" '.*'\. Stop it first, or set RUN_DIR to another folder\.",
      ),
      RunLock(tmp_path),
    ):
      pass
    lock.check()
    assert path.exists()
  assert not path.exists()
  with RunLock(tmp_path):
    pass


@pytest.mark.slow
def test_the_lock_of_a_killed_trainer_of_this_host(tmp_path, path):
  program = (
    "import sys, os\n"
    "from taskmoe_jax.train.hooks.run_lock import RunLock\n"
    "RunLock(sys.argv[1]).__enter__()\n"
    "os.kill(os.getpid(), 9)\n"
  )
  subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
  dead = json.loads(path.read_text())["pid"]
  said = []
  with RunLock(tmp_path, say=said.append):
    assert json.loads(path.read_text())["pid"] == os.getpid()
  (line,) = said
  assert line.startswith(f"process {dead} on host")
  assert line.endswith("trained here and was killed; this trainer takes over")


def test_a_number_that_another_process_has_now_does_not_count(tmp_path, path):
  with RunLock(tmp_path):
    ours = json.loads(path.read_text())
  write(path, **{**ours, "token": "t", "start": "an earlier boot 12"})
  said = []
  with RunLock(tmp_path, say=said.append) as lock:
    holder = json.loads(path.read_text())
    assert holder["start"] == ours["start"]
    assert holder["token"] not in ("t", ours["token"])
    lock.check()
  (line,) = said
  assert line == (
    f"process {os.getpid()} on host {ours['host']!r} trained here and was"
    " killed; this trainer takes over"
  )
  assert not path.exists()


def test_a_trainer_of_another_host_that_is_silent(tmp_path, path):
  write(path)
  said = []
  with RunLock(tmp_path, say=said.append, beat_seconds=QUICK):
    pass
  assert said[0].endswith("waiting 0 s to see whether it is alive")
  assert said[1].startswith("process 7 on host 'far-away' trained here")


def test_a_trainer_of_another_host_that_lives(tmp_path, path, monkeypatch):
  write(path)
  monkeypatch.setattr(time, "sleep", lambda _: write(path, beat=1))
  with (
    pytest.raises(
      TaskMoeError, match="process 7 on host 'far-away' is already training in"
    ),
    RunLock(tmp_path),
  ):
    pass
  assert json.loads(path.read_text())["beat"] == 1


def test_a_damaged_lock_is_nobodys(tmp_path, path, monkeypatch):
  monkeypatch.setattr(time, "sleep", lambda _: None)
  path.write_text("{")
  said = []
  with RunLock(tmp_path, say=said.append) as lock:
    assert json.loads(path.read_text())["pid"] == os.getpid()
    lock.check()
  # Whose it was cannot be read; a host that is not this one is waited for.
  assert said == [
    f"{path} belongs to another trainer; waiting 30 s to see whether it is"
    " alive",
    "another trainer trained here and was killed; this trainer takes over",
  ]
  assert not path.exists()


def test_who_has_lost_the_lock_stops_and_leaves_it_alone(tmp_path, path):
  with RunLock(tmp_path, beat_seconds=QUICK) as lock:
    lock.check()
    write(path)
    deadline = time.monotonic() + 10
    while lock.lost is None:
      assert time.monotonic() < deadline
      time.sleep(QUICK)
    with pytest.raises(TaskMoeError, match="'far-away' is already training in"):
      lock.check()
  assert json.loads(path.read_text())["token"] == "t"


def test_the_beat_goes_on(tmp_path, path):
  with RunLock(tmp_path, beat_seconds=QUICK):
    deadline = time.monotonic() + 10
    while json.loads(path.read_text())["beat"] < 3:
      assert time.monotonic() < deadline
      time.sleep(QUICK)

"""A test that takes too long fails, unless it says why."""

import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent
TESTS = """\
import subprocess, sys, time
import pytest

BUSY = "import time\\nwhile time.process_time() < 0.4: pass"

def test_busy():
  end = time.process_time() + 0.4
  while time.process_time() < end:
    pass

def test_busy_child():
  subprocess.run([sys.executable, "-c", BUSY], check=True)

@pytest.mark.expensive("it waits for itself")
def test_expensive():
  test_busy()

@pytest.fixture
def slowly_made():
  test_busy()

def test_fixtures_do_not_count(slowly_made):
  pass

def test_idle():
  time.sleep(0.4)

def test_first_to_import(monkeypatch):
  for number in range(300):
    monkeypatch.setitem(sys.modules, f"large_library.{number}", sys)
  test_busy()
"""


@pytest.mark.slow
def test_only_what_is_marked_may_take_long(tmp_path):
  (tmp_path / "test_some.py").write_text(TESTS)
  (tmp_path / "pytest.ini").write_text(
    "[pytest]\ncpu_seconds_of_a_test = 0.3\nmarkers = expensive(reason)\n"
  )
  done = subprocess.run(
    [
      *(sys.executable, "-m", "pytest", "-p", "tests.cpu_limit", "-rf"),
      *("-p", "no:cacheprovider", "--rootdir", tmp_path, tmp_path),
    ],
    cwd=ROOT,
    env={"PATH": "", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
    capture_output=True,
    text=True,
    check=False,
  )
  assert "2 failed, 4 passed" in done.stdout, done.stdout + done.stderr
  assert re.findall(r"^FAILED \S*::(\w+)", done.stdout, re.MULTILINE) == [
    "test_busy",
    "test_busy_child",
  ]
  assert re.search(
    r"^it took 0\.\d CPU seconds, and 0\.3 are allowed \(cpu_seconds_of_a_test"
    r" in pyproject\.toml\): make it cheaper, or mark it"
    r' @pytest\.mark\.expensive\("why"\)$',
    done.stdout,
    re.MULTILINE,
  )

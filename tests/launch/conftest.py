"""Runs launchers where there is no cloud, no cluster and no credentials."""

import os
import pathlib
import subprocess

import pytest

ROOT = pathlib.Path(__file__).parents[2]
LAUNCH = ROOT / "launch"


@pytest.fixture
def launch(tmp_path):
  """Runs a launcher; only programs in the folder `bin` and the system's."""

  def run(name, *arguments, status=0):
    done = subprocess.run(
      ["bash", str(LAUNCH / name), *arguments],
      cwd=ROOT,
      env={
        "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TASKMOE": os.environ.get("TASKMOE", "taskmoe"),
      },
      capture_output=True,
      text=True,
      timeout=60,
    )
    assert done.returncode == status, done.stderr
    return done.stdout if status == 0 else done.stderr

  return run


@pytest.fixture
def program(tmp_path):
  """Puts a shell script into the folder of programs, or Python code."""

  def make(name, text):
    path = tmp_path / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path

  return make

"""A cache written by several processes, killed, and read in a fresh one."""

import json
import os
import signal
import subprocess
import sys

import pytest

_WRITE = """
import os, sys, time
import taskmoe_jax.data.cache.writing as writing
from taskmoe_jax.cli.main import main

write = writing._write
def slow(*args):
  write(*args)
  time.sleep(0.3)
writing._write = slow
writing.EXAMPLES_PER_SHARD = 4
writing.write_cache.__kwdefaults__["examples_per_shard"] = 4
sys.exit(main(sys.argv[1:]))
"""


_READ = """
import sys
from taskmoe_jax.data.batches.batches import TrainBatches
from taskmoe_jax.data.cache.reading import open_cache
from taskmoe_jax.data.corpus import task_space_of
corpus = open_cache(sys.argv[1], temperature=None)
space = task_space_of(corpus, "pair")
batch = next(TrainBatches(
  corpus, vocabulary=corpus.vocabulary, task_space=space,
  batch_size=4, rows_per_task_group=1, source_length=40, target_length=40,
  pack=True, seed=0))
print(batch["encoder_input_tokens"].shape)
print({"tensorflow", "seqio", "jax"} & set(sys.modules))
"""


def _start(recipe, folder):
  return subprocess.Popen(
    [
      sys.executable,
      "-c",
      _WRITE,
      "cache",
      f"--gin_file={recipe}",
      f"--gin.CACHE={folder}",
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, "PYTHONUNBUFFERED": "1"},
  )


def _whole(folder):
  return set(folder.glob("*/*-?????.json"))


@pytest.mark.expensive("it starts processes")
def test_two_processes_and_a_kill(small_recipe, tmp_path):
  folder = tmp_path / "cache"
  first = _start(small_recipe, folder)
  second = _start(small_recipe, folder)
  # The first is killed when it has written something.
  assert any("/train-" in line for line in first.stdout)
  first.send_signal(signal.SIGKILL)
  first.communicate()
  output, _ = second.communicate(timeout=120)
  assert second.returncode == 0, output
  # What the dead one held was free again, so that nothing is left to do.
  assert f"cache in {folder}: 4 pairs" in output
  kept = {path: path.stat().st_mtime_ns for path in _whole(folder)}
  assert len(kept) == 2 * (9 + 2 + 2)
  written = [line for line in output.splitlines() if " examples  " in line]
  assert 0 < len(written) < len(kept)
  manifest = json.loads((folder / "manifest.json").read_text())
  assert manifest["pairs"].keys() == {"de-en", "en-de", "en-fr", "fr-en"}

  # A fresh process reads it, and loads nothing heavy.
  run = subprocess.run(
    [sys.executable, "-c", _READ, str(folder)],
    check=True,
    capture_output=True,
    text=True,
  )
  assert run.stdout.split("\n")[:2] == ["(4, 40)", "set()"]

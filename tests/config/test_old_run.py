"""A run of the code before modules moved resumes, and is evaluated.

`tests/runs/test_old_files.py` translates with it and exports it.
"""

import json
import pathlib
import shutil

import pytest

OLD = pathlib.Path(__file__).parents[1] / "golden" / "old"


@pytest.fixture(autouse=True)
def gin_folder(tmp_path, monkeypatch):
  """The real gin folder, not the small one that other tests here have."""
  monkeypatch.chdir(tmp_path)


@pytest.fixture
def run_dir(tmp_path):
  """A copy; its `config.gin` names the paths of the copy."""
  folder = tmp_path / "files"
  shutil.copytree(OLD, folder)
  recipe = folder / "run" / "config.gin"
  recipe.write_text(recipe.read_text().replace("{folder}", str(folder)))
  return folder / "run"


def test_it_resumes_and_is_evaluated(run_dir, taskmoe, use_devices):
  use_devices(1)
  old = (run_dir / "config.gin").read_text()
  assert "train import trouble" in old
  taskmoe(
    "train",
    f"--gin_file={run_dir / 'config.gin'}",
    "--gin.TRAIN_STEPS=601",
    "--gin.LOG_EVERY=1",
    "--gin.trouble.TroublePolicy.spike_window=50",
  )
  assert (run_dir / "checkpoints" / "601").is_dir()
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  steps = {(row := json.loads(line))["step"]: row["loss"] for line in lines}
  assert list(steps) == [200, 400, 600, 601]
  # From its parameters and its optimizer's state: a first step has a loss of 5.
  assert steps[601] < 1.1
  kept = (run_dir / "config.gin").read_text()
  assert "trouble" not in kept
  assert "divergence.DivergencePolicy.spike_window = 50" in kept

  taskmoe(
    "evaluate",
    f"--run_dir={run_dir}",
    "--step=600",
    "--beam_size=1",
    "--pairs=en-de",
  )
  (hypotheses,) = run_dir.glob("evaluation/*/*.hyp.txt")
  (references,) = run_dir.glob("evaluation/*/*.ref.txt")
  assert hypotheses.name == "en-de.hyp.txt"
  assert hypotheses.read_text() == references.read_text()

"""The race of engines runs, and all of them translate alike."""

import json

import pytest
import torch

from benchmarks import engines

SIZES = [
  "--embed_dim=8",
  "--mlp_dim=16",
  "--heads=2",
  "--layers=2",
  "--vocab_size=64",
  "--source=5",
  "--steps=4",
  "--rows=3",
  "--repeats=1",
  "--threads=1",
]


@pytest.fixture(autouse=True)
def _threads():
  before = torch.get_num_threads()
  yield
  torch.set_num_threads(before)


@pytest.mark.expensive("it compiles models")
def test_rows_of_json(tmp_path):
  path = tmp_path / "rows.json"
  engines.main([*SIZES, "--beams=4", f"--json={path}"])
  rows = list(map(json.loads, path.read_text().splitlines()))
  assert [row["engine"] for row in rows] == ["ours", *engines.FORMATS]
  for row in rows:
    assert row["beam"] == 4
    assert row["cpu s"] > 0
    if row["engine"] != "ctranslate2_int8":
      assert row["same"] == "3/3", row

"""The benchmark of decoding runs, and writes what it promises."""

import json

from benchmarks import decode

SIZES = [
  "--embed_dim=8",
  "--mlp_dim=16",
  "--heads=2",
  "--layers=2",
  "--experts=8",
  "--vocab_size=64",
  "--source=3",
  "--steps=3",
  "--repeats=1",
]


def test_rows_of_json(tmp_path):
  path = tmp_path / "rows.json"
  decode.main(
    [*SIZES, "--models=sub_network,token", "--rows=2", f"--json={path}"]
  )
  rows = list(map(json.loads, path.read_text().splitlines()))
  assert [(row["model"], row["rows"]) for row in rows] == [
    ("sub_network", 2),
    ("token", 2),
  ]
  for row in rows:
    assert row["tokens_per_second"] > 0

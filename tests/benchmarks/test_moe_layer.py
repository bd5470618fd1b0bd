"""The benchmark of one layer runs, and writes what it promises."""

import json

import pytest

from benchmarks import measure, moe_layer

SIZES = [
  "--embed_dim=8",
  "--mlp_dim=16",
  "--rows=4",
  "--length=3",
  "--groups=2",
  "--usual_malloc",
]


@pytest.mark.slow
@pytest.mark.parametrize(
  ("flags", "engines"),
  [
    (
      ["--mesh=2,2,2", "--experts=4", "--engines=dropless,expert_fetch"],
      [("dropless", "token"), ("dropless", "task"), ("expert_fetch", "task")],
    ),
    (
      ["--experts=4", "--decode", "--engines=auto"],
      [("auto", "token"), ("auto", "task")],
    ),
  ],
)
def test_rows_of_json(tmp_path, flags, engines):
  path = tmp_path / "rows.json"
  moe_layer.main([*SIZES, *flags, "--repeats=1", f"--json={path}"])
  dense, *rows = map(json.loads, path.read_text().splitlines())
  assert dense["engine"] == "dense"
  assert dense["time_ratio"] == dense["flops_ratio"] == 1
  assert [(row["engine"], row["granularity"]) for row in rows] == engines
  for row in rows:
    assert row["time_ratio"] > 0
    assert row["flops_ratio"] > 0
    assert row["all_gather_bytes"] >= 0
    moves = "--mesh=2,2,2" in flags
    assert (row["all_to_all_bytes"] > 0) == moves


def test_bytes_of_collectives_by_hand():
  """One that starts and is awaited lists what goes in, then what comes out."""
  program = """
  %a = f32[2,3]{1,0} all-gather(%x), dimensions={0}
  %b = (bf16[4]{0}, bf16[4]{0}, /*index=2*/bf16[4]{0}) all-to-all(%p, %q, %r)
  %c = (f32[2]{0}, f32[8]{0}) all-gather-start(%x), dimensions={0}
  %d = f32[8]{0} all-gather-done(%c)
  %e = pred[5]{0} collective-permute(%m)
  %f = f32[7]{0} add(%x, %y)
  """
  assert measure.communication(program) == {
    "all-gather": 6 * 4 + 8 * 4,
    "all-to-all": 3 * 4 * 2,
    "collective-permute": 5,
  }

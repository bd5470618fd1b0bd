"""The benchmark of decoding runs, and writes what it promises."""

import json

import jaxtyping
import pytest

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


@pytest.mark.expensive("it compiles models")
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


@pytest.fixture
def shapes_for_arrays():
  """A decoding's memory is made of shapes alone, which are no arrays."""
  jaxtyping.config.update("jaxtyping_disable", True)
  yield
  jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.expensive("it compiles models")
@pytest.mark.usefixtures("shapes_for_arrays")
def test_a_topology(capsys):
  """By the compiler: the whole mixture sends, the sub-network nothing."""
  pytest.importorskip("libtpu")
  flags = "--models=sub_network,token", "--experts=4", "--rows=40"
  rows = decode.main([*SIZES, "--topology=v5e:2x2", *flags])
  small, whole = rows
  assert small["collectives"] == small["communication"] == 0
  assert whole["collectives"] >= 2
  # One MoE layer: four pools of 2 · 2 · 40 / 4 + 8 places, of which one does
  # not travel, there and back, in two or four bytes a number.
  assert 2 < whole["communication"] / (2 * 3 * 48 * 8) < 4.1
  for row in rows:
    assert row["sending"] < row["seconds"] < 1
    assert row["tokens_per_second"] == pytest.approx(160 / row["seconds"])
    assert 0 < row["flops"] < row["bytes"] * 1000
    assert row["memory"] < 1e9
  assert "peak of sub_network" in capsys.readouterr().out

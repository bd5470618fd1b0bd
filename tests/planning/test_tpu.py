"""One small model, compiled for two slices of a TPU topology.

A sharding mistake shows here, without a TPU. Skipped where there is no TPU
compiler (libtpu, of the extra `test`), which is not everywhere there is JAX.
"""

import json

import pytest

pytest.importorskip("libtpu")

# Two slices, each of four devices: a mesh of 2 x 2 x 2 x 1. The TPU's grouped
# product wants widths that are multiples of 128.
FLAGS = (
  "--topology=v5e:2x2",
  "--slices=2",
  "--pairs=4",
  "--gin.meshes.MeshShape.expert=2",
  "--gin.config.StackConfig.mlp_dims=()",
  "--gin.config.ModelConfig.embed_dim=128",
  "--gin.EXPERT_MLP_DIM=256",
  "--gin.DTYPE=bfloat16",
)


@pytest.fixture(scope="module")
def report(small_recipe, taskmoe, tmp_path_factory):
  folder = tmp_path_factory.mktemp("precompiled")
  taskmoe(
    "precompile",
    f"--gin_file={small_recipe}",
    "--gin.RUN_DIR=unused",
    f"--json={folder / 'report.json'}",
    f"--store={folder}",
    *FLAGS,
  )
  assert len(list(folder.glob("*.executable"))) == 1
  return json.loads((folder / "report.json").read_text())


def found(report, **wanted):
  return [
    row
    for row in report["collectives"]
    if all(row[name] == value for name, value in wanted.items())
  ]


@pytest.mark.expensive("it compiles for a TPU")
def test_the_report(report):
  assert report["devices"] == 8
  assert report["fits"]
  assert 0 < report["device_bytes"] < report["hbm_bytes"] == 15.75 * 2**30
  assert report["parameters"] > 10_000
  assert 0 < report["estimate_s"] < 1
  assert report["compile_s"] > 0
  # Loops are counted as often as they turn: two blocks in each stack. Experts
  # take no more than the pool's places over a fair share.
  assert 1 <= report["flops"] / report["model_flops"] < 1.3


def test_between_slices_only_gradients_are_summed(report):
  """Each device sums its quarter; a number travels in two or four bytes."""
  (crossing,) = found(report, network="DCN")
  assert (crossing["kind"], crossing["axes"]) == ("all-reduce", ["slice"])
  assert crossing["dcn_bytes"] == crossing["bytes"]
  assert 0.9 < crossing["bytes"] / crossing["least_bytes"] < 2.5
  assert not any("slice" in row["axes"] for row in found(report, network="ICI"))


def test_tokens_and_experts_travel_within_a_slice(report):
  (row,) = found(report, kind="all-to-all")
  assert row["axes"] == ["expert"]
  assert row["network"] == "ICI"
  # The encoder's pools have room for a quarter more than a fair share.
  assert 0.9 < row["bytes"] / row["least_bytes"] < 1.5


def test_only_gradients_are_gathered(report):
  """Put together again within a slice, once they are summed."""
  gathered = found(report, kind="all-gather")
  least = sum(row["least_bytes"] for row in gathered)
  assert 0.9 < sum(row["bytes"] for row in gathered) / least < 2.5

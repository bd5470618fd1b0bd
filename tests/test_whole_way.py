"""Text in, sub-networks out, for every granularity of either stack.

Only `--gin.ENCODER` and `--gin.DECODER` change. Sizes are tiny: that the whole
way is open and exact is tested here, that it learns is shown by the demo. What
one stack's granularity does to the other is tested for all pairs of them in
tests/models/test_granularities.py.
"""

import json
import math

import jax
import pytest

import taskmoe_jax
from taskmoe_jax.cli.main import main

DENSE = ("task", "static")
REDUCIBLE = (*DENSE, "task_then_token")
# Each once in either stack, and all that an export may find: both stacks can be
# reduced, to what is dense or not, or one, or none.
STACKS = [
  ("task", "task"),
  ("token", "static"),
  ("static", "sentence"),
  ("sentence", "token"),
  ("word", "task_then_token"),
  ("task_then_token", "word"),
]


@pytest.fixture(autouse=True)
def one_device(use_devices):
  use_devices(1)


@pytest.mark.expensive("it trains, evaluates, exports and translates")
@pytest.mark.parametrize(("encoder", "decoder"), STACKS)
def test_whole_way(small_recipe, taskmoe, tmp_path, capsys, encoder, decoder):
  run_dir = tmp_path / "run"
  taskmoe(
    "train",
    f"--gin_file={small_recipe}",
    f"--gin.RUN_DIR={run_dir}",
    f"--gin.ENCODER={encoder}",
    f"--gin.DECODER={decoder}",
    # Every layer an MoE layer: half as much to compile.
    "--gin.config.StackConfig.mlp_dims=()",
    "--gin.moe.MoeConfig.num_candidates=3",
  )
  lines = (run_dir / "metrics.jsonl").read_text().splitlines()
  reports = [json.loads(line) for line in lines]
  assert [report["step"] for report in reports] == [1, 2]
  for report in reports:
    # Untrained, 293 pieces of a table of 296 are about equally likely.
    assert 0.5 * math.log(296) < report["loss"] < 2 * math.log(296)
    for stack in ("encoder", "decoder"):
      for layer in (0, 1):
        prefix = f"routing/{stack}/layer_{layer}"
        # Of the tasks en, de and fr the first two are seen in every step.
        for load in (f"{prefix}/load", f"{prefix}/task/de/load"):
          assert sum(report[load]) == pytest.approx(1)
        assert 0 <= report[f"{prefix}/overlap_mean"] <= 1 + 1e-6

  scores = run_dir / "scores"
  taskmoe(
    *("evaluate", f"--run_dir={run_dir}", "--pairs=en-de,fr-en"),
    *("--beam_size=1", f"--out={scores}"),
  )
  results = json.loads((scores / "results.json").read_text())
  assert [pair["pair"] for pair in results["pairs"]] == ["en-de", "fr-en"]
  assert [pair["examples"] for pair in results["pairs"]] == [2, 2]

  if encoder not in REDUCIBLE and decoder not in REDUCIBLE:
    _refuses_to_export(run_dir, encoder, decoder, capsys)
  else:
    taskmoe("export", f"--run_dir={run_dir}", "--tasks=en-de")
    _check_bundle(run_dir, encoder, decoder)


def _refuses_to_export(run_dir, encoder, decoder, capsys):
  before = sorted(run_dir.rglob("*"))
  capsys.readouterr()
  assert main(["export", f"--run_dir={run_dir}", "--tasks=all"]) == 2
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith(
    "taskmoe: error: no sub-network can be extracted: the encoder is routed by"
    f" {encoder} and the decoder is routed by {decoder}, and only"
  )
  assert sorted(run_dir.rglob("*")) == before


def _check_bundle(run_dir, encoder, decoder):
  folder = run_dir / "export-2" / "de"
  manifest = json.loads((folder / "manifest.json").read_text())
  assert manifest["task"] == "de"
  assert manifest["pairs"] == ["en-de"]
  assert manifest["source"] == {"run": str(run_dir), "step": 2}
  # The dev part has six sentences.
  assert manifest["check"]["sentences"] == 6
  assert manifest["check"]["identical_translations"] == 6
  assert manifest["check"]["max_logit_difference"] <= 1e-4

  bundle = taskmoe_jax.load(folder)
  for name, granularity in (("encoder", encoder), ("decoder", decoder)):
    described = manifest["stacks"][name]
    stack = getattr(bundle.model, name)
    if granularity in REDUCIBLE:
      assert described["reduced"]
      assert described["granularity"] == granularity
      assert [layer["layer"] for layer in described["layers"]] == [0, 1]
    if granularity in DENSE:
      for layer in described["layers"]:
        assert len(set(layer["experts"])) == 2
        assert sum(layer["gates"]) == pytest.approx(1)
      # Two experts of 32 hidden units.
      assert (stack.moe, stack.mlp_dims) == (None, (64,))
    elif granularity == "task_then_token":
      for layer in described["layers"]:
        assert len(set(layer["candidates"])) == 3
      assert stack.moe.num_experts == stack.moe.num_candidates == 3
    else:
      assert described["reduced"] is False
      assert described["reason"] == (
        f"it is routed by {granularity}: its experts depend on the text, so"
        " all are kept"
      )
      assert stack.moe.num_experts == 4
  sizes = manifest["parameters"]
  assert sizes["bundle"] < sizes["mixture"]
  sources = [
    "the red dog 7",
    "one old tree 25",
    "the old house 25",
    "one big day 7",
    "the big red dog",
  ]
  # By programs that are compiled: of the export's check, and of `evaluate`.
  with jax.default_matmul_precision("highest"):
    found = bundle.translate(sources)
  mixture = taskmoe_jax.load(run_dir)
  assert found == mixture.translate(sources, "en-de", batch_size=2)

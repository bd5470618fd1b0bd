"""A run and its bundle, through the command, give the same translations."""

import json
import shutil

import pytest

from taskmoe_jax.evaluate.translating import load_evaluated


@pytest.mark.expensive("it compiles models")
def test_a_bundle_is_evaluated_as_its_run(
  finished_run, small_corpus, taskmoe, tmp_path, monkeypatch, use_devices
):
  use_devices(1)
  run_dir = shutil.copytree(finished_run, tmp_path / "run")
  taskmoe("export", f"--run_dir={run_dir}", "--tasks=de", f"--out={tmp_path}/x")
  (bundle,) = (path.parent for path in (tmp_path / "x").rglob("manifest.json"))
  text = tmp_path / "mine.tsv"
  lines = (small_corpus / "en-de.test.tsv").read_text().splitlines()
  text.write_text("\n".join(lines))
  flags = ("--pairs=en-de", "--examples=3", "--beam_size=1", "--metrics=chrf")
  # The mixture's part, from another folder than the run was trained in.
  monkeypatch.chdir(tmp_path)
  taskmoe("evaluate", f"--run_dir={run_dir}", *flags)
  taskmoe("evaluate", f"--bundle={bundle}", f"--tsv={text}", *flags)
  of_run = run_dir / "evaluation" / "test-first3-1-greedy"
  of_bundle = bundle / "evaluation" / "mine-first3-1-greedy"
  for name in ("en-de.src.txt", "en-de.hyp.txt", "en-de.ref.txt"):
    assert (of_run / name).read_text() == (of_bundle / name).read_text()
  a, b = (
    json.loads((folder / "results.json").read_text())
    for folder in (of_run, of_bundle)
  )
  assert (a["pairs"][0]["examples"], a["step"], b["step"]) == (3, 1, 1)
  assert a["averages"] == b["averages"] | a["averages"]
  models = [
    load_evaluated(run_dir=run_dir, bundle=None, step=None, mesh=None),
    load_evaluated(run_dir=run_dir, bundle=None, step=1, mesh=None),
    load_evaluated(run_dir=None, bundle=bundle, step=None, mesh=None),
  ]
  same, again, other = (model.fingerprint for model in models)
  assert same == again != other

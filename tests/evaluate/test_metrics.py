"""A metric from outside the package, named by gin alone."""

import json

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.metrics import METRICS, label, metric_named

OUTSIDE = """
from sacrebleu.metrics import base
from taskmoe_jax.evaluate.metrics import Metric


class ExactMatch(base.Metric):
  _SIGNATURE_TYPE = base.Signature

  def _preprocess_segment(self, sentence):
    return sentence

  def _extract_reference_info(self, references):
    return {"references": references}

  def _compute_segment_statistics(self, hypothesis, ref_kwargs):
    return [int(hypothesis in ref_kwargs["references"]), 1]

  def _compute_score_from_stats(self, stats):
    same, number = stats
    return base.Score("exact", 100 * same / number)

  def _aggregate_and_compute(self, stats):
    return self._compute_score_from_stats([sum(x) for x in zip(*stats)])


EXACT = Metric(label="exact match", make=lambda *_: ExactMatch())
NOT_ONE = 3
"""


@pytest.fixture
def outside(tmp_path, monkeypatch):
  (tmp_path / "outside_metrics.py").write_text(OUTSIDE)
  monkeypatch.syspath_prepend(tmp_path)


def test_a_recipe_names_a_metric_of_its_own(
  outside, finished_run, taskmoe, tmp_path
):
  out = tmp_path / "scored"
  taskmoe(
    "evaluate",
    f"--run_dir={finished_run}",
    "--gin.scores.Scoring.metrics=('bleu', 'outside_metrics:EXACT')",
    "--gin.scores.Scoring.bootstrap=20",
    "--pairs=en-de",
    "--beam_size=1",
    f"--out={out}",
  )
  results = json.loads((out / "results.json").read_text())
  (row,) = results["pairs"]
  assert row["outside_metrics:EXACT"] == 0.0  # one step of training
  assert row["intervals"]["outside_metrics:EXACT"] == 0.0
  assert row["signatures"]["outside_metrics:EXACT"].startswith("nrefs:1|")
  assert "exact match" in (out / "results.md").read_text()
  page = (out / "index.html").read_text()
  assert "exact match" in page
  # sacrebleu's command line does not have it.
  assert page.count("sacrebleu en-de.ref.txt") == 1
  # A later command finds it again by its path.
  taskmoe("evaluate", "--compare", out, out, f"--out={tmp_path / 'compared'}")
  assert "exact match" in (tmp_path / "compared" / "index.html").read_text()


@pytest.mark.parametrize(
  ("name", "message"),
  [
    ("blue", r"unknown metric 'blue': accepted are .* or the path of your own"),
    (
      "no_such_module:X",
      "cannot be imported: No module named 'no_such_module'",
    ),
    ("outside_metrics:MISSING", "cannot be imported: .* 'MISSING'"),
    ("outside_metrics:NOT_ONE", "is a int, not a taskmoe_jax.evaluate.metrics"),
  ],
)
def test_what_is_not_a_metric_raises(outside, name, message):
  """One in no table is never scored as another (it was TER, silently)."""
  with pytest.raises(TaskMoeError, match=message):
    metric_named(name)


def test_labels_are_sacrebleus():
  assert [label(name) for name in METRICS] == [
    "BLEU",
    "chrF2",
    "chrF2++",
    "TER",
    "spBLEU",
  ]

"""What changed between two evaluations, and that sacrebleu says so too."""

import io
import json
import subprocess
import sys

import pytest
import rich.console

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.comparison_report import compare_runs
from taskmoe_jax.evaluate.scores import Scoring


@pytest.fixture(name="two_runs")
def fixture_two_runs(evaluated, lookup, tmp_path):
  """A gets two sentences wrong, B another one."""
  german = list(lookup.table)
  a = {german[0]: "A cat <u>eats</u>.", german[3]: "We sleep now."}
  b = {german[2]: "One, two, six."}
  for name, wrong in (("a", a), ("b", b)):
    translator = type(lookup)({**lookup.table, **wrong})
    evaluated(model=name, pairs=["de-en"], translator=translator)
  return tmp_path / "a", tmp_path / "b"


def compared(*folders, **changes):
  console = rich.console.Console(file=io.StringIO(), width=100)
  values = {"significance": "bootstrap", "samples": 50, "out": None}
  found = compare_runs(*folders, **{**values, **changes}, console=console)
  return found, console.file.getvalue()


@pytest.mark.parametrize(
  ("kind", "flags"),
  [
    ("bootstrap", ["--paired-bs", "--paired-bs-n=50"]),
    ("randomization", ["--paired-ar", "--paired-ar-n=50"]),
  ],
)
def test_significance_equals_sacrebleus_command_line(two_runs, kind, flags):
  found, _ = compared(*two_runs, significance=kind)
  score = found["pairs"][0]["metrics"]["bleu"]
  a, b = (run / "evaluation" / "text-test-7-greedy" for run in two_runs)
  printed = subprocess.run(
    [
      *(sys.executable, "-m", "sacrebleu", f"{a}/de-en.ref.txt", "-i"),
      *(f"{a}/de-en.hyp.txt", f"{b}/de-en.hyp.txt", "-m", "bleu"),
      *("--tokenize", "intl", "-f", "json", "-w", "6", *flags),
    ],
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  before, after = json.loads(printed)
  assert score["a"] == pytest.approx(before["BLEU"]["score"], abs=1e-5)
  assert score["b"] == pytest.approx(after["BLEU"]["score"], abs=1e-5)
  assert score["p"] == pytest.approx(after["BLEU"]["p_value"], abs=1e-5)
  assert score["difference"] == score["b"] - score["a"]


def test_sentences_that_changed(two_runs):
  found, printed = compared(*two_runs)
  sentences = found["pairs"][0]["sentences"]
  assert {row["line"] for row in sentences["better"]} == {1, 4}
  (worse,) = sentences["worse"]
  assert (worse["line"], worse["b"]) == (3, "One, two, six.")
  assert worse["chrf"][0] == pytest.approx(100)
  assert "much better" in printed
  assert "much worse" in printed
  assert "de-en line 3, chrF 100.0 →" in printed
  folder = two_runs[1] / "evaluation" / "text-test-7-greedy" / "against-a"
  page = (folder / "index.html").read_text()
  assert "<u>" not in page
  assert "&lt;" in page
  assert json.loads((folder / "comparison.json").read_text()) == found


def test_a_run_against_itself_has_no_difference(two_runs):
  folder = two_runs[0] / "evaluation" / "text-test-7-greedy"
  found, _ = compared(two_runs[0], folder, out=folder / "same")
  score = found["pairs"][0]["metrics"]["bleu"]
  assert (score["difference"], score["p"]) == (0, 1)
  assert found["pairs"][0]["sentences"] == {"better": [], "worse": []}
  assert found["averages"]["all"]["bleu"]["difference"] == 0


def test_mistakes(two_runs, evaluated, folder, tmp_path):
  a, b = two_runs
  with pytest.raises(TaskMoeError, match="unknown significance 'luck': acc"):
    compared(a, b, significance="luck")
  with pytest.raises(TaskMoeError, match=r"has no results\.json: name a"):
    compared(a, tmp_path)
  evaluated(model="c", pairs=["fr-en"])
  with pytest.raises(TaskMoeError, match="no two evaluations of the same text"):
    compared(a, tmp_path / "c")
  evaluated(
    model="d",
    pairs=["de-en"],
    scoring=Scoring(metrics=("bleu",), tokenizer="13a", bootstrap=0),
  )
  with pytest.raises(TaskMoeError, match=r"was scored with metrics \["):
    compared(a, tmp_path / "d")
  path = folder / "en-de.test.tsv"
  path.write_text(path.read_text().replace("Yes.", "No."))
  evaluated(model="e", pairs=["de-en"])
  with pytest.raises(TaskMoeError, match="de-en is another text in"):
    compared(a, tmp_path / "e")

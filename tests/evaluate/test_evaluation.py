"""What is translated and kept, and that a killed evaluation goes on."""

import json
import pathlib
import subprocess
import sys

import pytest

from taskmoe_jax.decoding.search import Beam
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate import results as files
from taskmoe_jax.evaluate.scores import Scoring


def test_all_pairs_of_a_folder(evaluated, lookup, tmp_path):
  results, printed = evaluated()
  pairs = ["en-de", "de-en", "en-fr", "fr-en"]
  assert sorted(lookup.calls) == sorted(pairs)
  folder = pathlib.Path(results["folder"])
  assert folder == tmp_path / "model" / "evaluation" / "text-test-7-greedy"
  stored = json.loads((folder / "results.json").read_text())
  assert {**stored, "folder": str(folder)} == results
  assert sorted(row["pair"] for row in stored["pairs"]) == sorted(pairs)
  assert (folder / "de-en.hyp.txt").read_text().splitlines()[0] == (
    "The dog sleeps <i>long</i> today."
  )
  assert results["tokens"] == 4 * 4 * 3
  assert results["search"]["search"] == "greedy"
  assert set(results["averages"]) == {"all", "xx-en", "en-xx", "high", "low"}
  assert results["averages"]["high"]["pairs"] == 2
  (row,) = (row for row in results["pairs"] if row["pair"] == "de-en")
  assert row["unfinished"] == 1
  assert f"results in {folder}" in printed
  assert "(4/4, ETA 00:00)" in printed
  assert "1 translations were cut off" in printed
  assert not list(folder.glob("*.tmp"))


def test_sacrebleu_repeats_the_scores_from_our_files(evaluated):
  """With the command that the page shows."""
  how = Scoring(metrics=("bleu",), tokenizer="intl", bootstrap=20)
  results, _ = evaluated(pairs=["de-en"], scoring=how)
  folder = pathlib.Path(results["folder"])
  page = (folder / "index.html").read_text()
  words = page.partition("<pre>sacrebleu ")[2].partition("</pre>")[0].split()
  printed = json.loads(
    subprocess.run(
      [sys.executable, "-m", "sacrebleu", *words, "-w", "8"],
      cwd=folder,
      check=True,
      capture_output=True,
    ).stdout
  )
  (row,) = results["pairs"]
  assert row["bleu"] == pytest.approx(printed["score"], abs=1e-7)
  assert row["intervals"]["bleu"] == pytest.approx(
    printed["confidence_var"], abs=1e-7
  )
  assert row["signatures"]["bleu"] == printed["signature"]


def test_killed_and_gone_on(evaluated, lookup):
  lookup.dies_at = "en-fr"
  with pytest.raises(KeyboardInterrupt):
    evaluated()
  first = list(lookup.calls)
  assert 0 < len(first) < 4
  lookup.dies_at = None
  results, printed = evaluated()
  assert sorted(lookup.calls) == ["de-en", "en-de", "en-fr", "fr-en"]
  assert f"{len(first)} of 4 pairs have been translated before" in printed
  again, _ = evaluated()
  assert len(lookup.calls) == 4
  assert again == results


@pytest.mark.parametrize(
  "change", ["model", "search", "source", "edited", "damaged", "lost"]
)
def test_what_does_not_fit_is_translated_again(
  evaluated, lookup, folder, change, tmp_path
):
  out = tmp_path / "out"
  evaluated(pairs=["de-en"], out=out)
  changes = {}
  match change:
    case "model":
      changes["fingerprint"] = "two"
    case "search":
      changes["search"] = Beam(size=2, length_penalty=0.5)
    case "source":
      path = folder / "en-de.test.tsv"
      path.write_text(path.read_text().replace("Hund", "Hase"))
    case "edited":
      (out / "de-en.hyp.txt").write_text("by hand\n" * 4)
    case "damaged":
      (out / "de-en.json").write_text('{"pair": ')
    case "lost":
      (out / "de-en.hyp.txt").unlink()
  evaluated(pairs=["de-en"], out=out, **changes)
  assert lookup.calls == ["de-en"] * 2


def test_other_scores_or_references_need_no_translation(
  evaluated, lookup, folder
):
  evaluated(pairs=["de-en"])
  path = folder / "en-de.test.tsv"
  path.write_text(path.read_text().replace("Yes.", "No."))
  how = Scoring(metrics=("chrf++",), tokenizer="13a", bootstrap=0)
  after, _ = evaluated(pairs=["de-en"], scoring=how)
  assert lookup.calls == ["de-en"]
  folder = pathlib.Path(after["folder"])
  assert (folder / "de-en.ref.txt").read_text().splitlines()[1] == "No."
  assert after["pairs"][0]["chrf++"] < 100
  assert list(after["pairs"][0]["signatures"]) == ["chrf++"]


def test_names_of_folders_tell_evaluations_apart(evaluated):
  folders = {
    pathlib.Path(evaluated(pairs=["de-en"], **changes)[0]["folder"]).name
    for changes in (
      {},
      {"examples": 2},
      {"search": Beam(size=4, length_penalty=0.8)},
    )
  }
  assert folders == {
    "text-test-7-greedy",
    "text-test-first2-7-greedy",
    "text-test-7-beam4-lp0.8",
  }


def test_markdown(evaluated):
  how = Scoring(metrics=("chrf", "ter"), tokenizer="intl", bootstrap=0)
  results, _ = evaluated(pairs=["de-en"], scoring=how)
  text = (pathlib.Path(results["folder"]) / "results.md").read_text()
  row = results["pairs"][0]
  assert "| pair | examples | chrF2 | TER |\n|---|---:|---:|---:|\n" in text
  assert f"| de-en | 4 | {row['chrf']:.2f} | {row['ter']:.2f} |\n" in text
  assert f"| **average** | 1 pairs | {row['chrf']:.2f} |" in text
  assert "\n- TER: `nrefs:1|case:lc|" in text
  assert "Search: greedy, max_source 1024, truncate False." in text


@pytest.mark.parametrize("damage", ["[]", "{", '{"step": 1}'])
def test_damaged_results(tmp_path, damage):
  with pytest.raises(TaskMoeError, match=r"has no results\.json: name a"):
    files.read_results(tmp_path)
  (tmp_path / "results.json").write_text(damage)
  with pytest.raises(TaskMoeError, match=r"results\.json' is damaged: "):
    files.read_results(tmp_path)


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"part": "train"},
      r"unknown part 'train': accepted are validation, test\. Set --part\.",
    ),
    ({"pairs": ["de-it"]}, "unknown pair 'de-it': accepted are .* --pairs"),
    ({"examples": 0}, r"0 examples are too few: at least 1\. Set --examples"),
    ({"test_set": "wmt19"}, r"two texts to evaluate on: --tsv=.* Set one"),
    ({"tsv": None}, r"nothing to evaluate on\. Set --tsv, --test_set, or"),
  ],
)
def test_mistakes(evaluated, tmp_path, changes, message):
  with pytest.raises(TaskMoeError, match=message):
    evaluated(**changes)
  assert not (tmp_path / "model").exists()

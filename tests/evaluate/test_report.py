"""What an evaluation leaves behind, and that sacrebleu can repeat it."""

import io
import json
import subprocess
import sys

import pytest
import rich.console

from taskmoe_jax.evaluate import report
from taskmoe_jax.evaluate.scores import score_pair

TRANSLATIONS = {
  "de-en": report.Translations(
    ["Der Hund schläft.", "Ja.", "Eins, zwei, drei, vier."],
    ["The dog is\nsleeping.", "", "One, two, three, four."],
    ["The dog is asleep.", "Yes.", "One, two, three, four."],
  ),
  "en-zh": report.Translations(
    ["I have three books.", "He goes to school today."],
    ["我有三本书。", "他今天去学校。"],
    ["我有三本书。", "他今天要去学校。"],
  ),
}


def make_results(translations):
  return report.results_dict(
    [
      score_pair(p, t.hypotheses, t.references) for p, t in translations.items()
    ],
    run="runs/tiny",
    step=300,
    split="test",
    decoder={"beam_size": 4, "length_penalty": 0.6},
    seconds=2.5,
    tokens=50,
  )


@pytest.fixture(name="results")
def fixture_results():
  return make_results(TRANSLATIONS)


def test_json_holds_everything(tmp_path, results):
  report.write_results(tmp_path / "new" / "folder", results, TRANSLATIONS)
  path = tmp_path / "new" / "folder" / "results.json"
  stored = json.loads(path.read_text(encoding="utf-8"))
  assert stored == results
  assert stored["step"] == 300
  assert stored["split"] == "test"
  assert stored["run"] == "runs/tiny"
  assert stored["decoder"] == {"beam_size": 4, "length_penalty": 0.6}
  assert stored["tokens_per_second"] == 20.0
  assert [row["pair"] for row in stored["pairs"]] == ["de-en", "en-zh"]
  assert [row["examples"] for row in stored["pairs"]] == [3, 2]
  assert "tok:zh" in stored["pairs"][1]["bleu_signature"]
  mean = (stored["pairs"][0]["bleu"] + stored["pairs"][1]["bleu"]) / 2
  assert stored["averages"]["all"]["bleu"] == pytest.approx(mean)


def test_files_keep_their_lines_aligned(tmp_path, results):
  report.write_results(tmp_path, results, TRANSLATIONS)
  lines = {
    kind: (tmp_path / f"de-en.{kind}.txt").read_text(encoding="utf-8")
    for kind in ("src", "hyp", "ref")
  }
  assert lines == {
    "src": "Der Hund schläft.\nJa.\nEins, zwei, drei, vier.\n",
    "hyp": "The dog is sleeping.\n\nOne, two, three, four.\n",
    "ref": "The dog is asleep.\nYes.\nOne, two, three, four.\n",
  }


@pytest.mark.parametrize(
  ("pair", "tokenizer"), [("de-en", "intl"), ("en-zh", "zh")]
)
def test_sacrebleu_repeats_the_scores(tmp_path, results, pair, tokenizer):
  report.write_results(tmp_path, results, TRANSLATIONS)
  row = {row["pair"]: row for row in results["pairs"]}[pair]
  printed = subprocess.run(
    [
      *(sys.executable, "-m", "sacrebleu", f"{pair}.ref.txt"),
      *("-i", f"{pair}.hyp.txt", "-m", "bleu", "chrf"),
      *("--tokenize", tokenizer, "-w", "8"),
    ],
    cwd=tmp_path,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  bleu, chrf = json.loads(printed)
  assert row["bleu"] == pytest.approx(bleu["score"], abs=1e-7)
  assert row["chrf"] == pytest.approx(chrf["score"], abs=1e-7)
  assert row["bleu_signature"] == bleu["signature"]


def test_nothing_temporary_is_left_and_old_results_are_replaced(
  tmp_path, results
):
  report.write_results(tmp_path, results | {"step": 1}, TRANSLATIONS)
  report.write_results(tmp_path, results, TRANSLATIONS)
  assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
    [
      *("results.json", "results.md"),
      *("de-en.src.txt", "de-en.hyp.txt", "de-en.ref.txt"),
      *("en-zh.src.txt", "en-zh.hyp.txt", "en-zh.ref.txt"),
    ]
  )
  assert json.loads((tmp_path / "results.json").read_text())["step"] == 300


def test_results_that_json_cannot_hold_replace_nothing(tmp_path, results):
  report.write_results(tmp_path, results, TRANSLATIONS)
  before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  with pytest.raises(TypeError, match="not JSON serializable"):
    report.write_results(
      tmp_path, results | {"step": 4, "decoder": {"beam": {1}}}, TRANSLATIONS
    )
  after = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
  assert after == before


def test_markdown():
  row = {
    "examples": 7,
    "bleu": 31.236,
    "chrf": 50.0,
    "bleu_signature": "tok:intl",
    "chrf_signature": "nc:6",
  }
  results = {
    "run": "runs/tiny",
    "step": 300,
    "split": "test",
    "decoder": {"beam_size": 4, "length_penalty": 0.6},
    "seconds": 2.5,
    "tokens": 50,
    "tokens_per_second": 20.0,
    "averages": {"all": {"pairs": 2, "bleu": 25.0, "chrf": 45.5}},
    "pairs": [
      {"pair": "de-en"} | row,
      {"pair": "en-zh"} | row | {"bleu_signature": "tok:zh"},
    ],
  }
  assert report.markdown(results) == (
    "# runs/tiny, step 300, test\n"
    "\n"
    "Decoder: beam_size 4, length_penalty 0.6.\n"
    "50 tokens in 2.5 s, 20 tokens/s.\n"
    "\n"
    "| pair | examples | BLEU | chrF |\n"
    "|---|---:|---:|---:|\n"
    "| de-en | 7 | 31.24 | 50.00 |\n"
    "| en-zh | 7 | 31.24 | 50.00 |\n"
    "| **average** | 2 pairs | 25.00 | 45.50 |\n"
    "\n"
    "- BLEU: `tok:intl` (de-en)\n"
    "- BLEU: `tok:zh` (en-zh)\n"
    "- chrF2: `nc:6`\n"
  )


def printed(results):
  """The lines of the table, cells joined by single spaces."""
  file = io.StringIO()
  report.print_table(rich.console.Console(file=file, width=60), results)
  lines = file.getvalue().replace("│", " ").replace("┃", " ").splitlines()
  return [" ".join(line.split()) for line in lines]


def with_bleu(**bleu):
  """Results of pairs `de_en=31.2`, scored by hand."""
  pairs = {
    pair.replace("_", "-"): TRANSLATIONS["de-en"] for pair in sorted(bleu)
  }
  results = make_results(pairs)
  for row in results["pairs"]:
    row["bleu"] = bleu[row["pair"].replace("-", "_")]
  return results


def test_table_has_a_row_per_language():
  lines = printed(with_bleu(de_en=31.236, en_de=20.0, fr_en=9.5, de_fr=4.0))
  assert "language xx→en en→xx" in lines
  assert "de 31.24 20.00" in lines
  assert "fr 9.50" in lines
  assert "de-fr: 4.00" in lines
  assert any(line.startswith("average of 4 pairs: ") for line in lines)
  assert any(line.startswith("BLEU: `nrefs:1|") for line in lines)


def test_table_prints_the_averages(results):
  average = {k: f"{v['bleu']:.2f}" for k, v in results["averages"].items()}
  lines = printed(results)
  assert f"average {average['xx-en']} {average['en-xx']}" in lines
  assert f"average of 2 pairs: {average['all']}" in lines


def test_table_without_english():
  lines = printed(with_bleu(de_fr=4.0))
  assert lines[0] == "de-fr: 4.00"

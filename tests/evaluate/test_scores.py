"""Scores equal sacrebleu's command line, and by hand."""

import json
import math
import shlex
import subprocess
import sys

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate import groups, scores
from taskmoe_jax.evaluate import metrics as scoring_metrics
from taskmoe_jax.evaluate.metrics import Tokenizer
from taskmoe_jax.evaluate.scores import Scoring

GERMAN = (
  [
    "Die Katze sitzt auf der Matte.",
    "Es kostet 3,50 Euro.",
    "",
    "Das ist ein langer Satz, der endet!",
  ],
  [
    "Die Katze saß auf der Matte.",
    "Das kostet 3,50 Euro.",
    "Ja.",
    "Das ist ein langer Satz, der bald endet!",
  ],
)
CHINESE = (
  ["我今天去学校。", "他有三本书和一支笔。"],
  ["我今天要去学校。", "他有三本书和两支笔。"],
)
ALL = ("bleu", "chrf", "chrf++", "ter")


def scoring(*metrics, tokenizer="intl", bootstrap=0):
  return Scoring(metrics=metrics, tokenizer=tokenizer, bootstrap=bootstrap)


def command_line(folder, pair, hypotheses, references, how):
  """What `sacrebleu` itself prints, by our names of the metrics."""
  for name, lines in (("hyp.txt", hypotheses), ("ref.txt", references)):
    text = "".join(f"{line}\n" for line in lines)
    (folder / name).write_text(text, encoding="utf-8")
  printed = {}
  for metric in how.metrics:
    flags = scoring_metrics.sacrebleu_flags(metric, pair[-2:], how.tokenizer)
    printed[metric] = json.loads(
      subprocess.run(
        [
          *(sys.executable, "-m", "sacrebleu", "ref.txt", "-i", "hyp.txt"),
          *(*flags, "--confidence", "--confidence-n=50", "-w", "8"),
        ],
        cwd=folder,
        check=True,
        capture_output=True,
        text=True,
      ).stdout
    )
  return printed


@pytest.mark.slow
@pytest.mark.parametrize(
  ("pair", "text", "tokenizer", "metrics", "signed"),
  [
    ("en-de", GERMAN, "intl", ALL, "|tok:intl|"),
    ("en-de", GERMAN, "13a", ("bleu",), "|tok:13a|"),
    ("en-zh", CHINESE, "intl", ("bleu", "ter"), "|tok:zh|"),
  ],
)
def test_equals_sacrebleus_command_line(
  tmp_path, pair, text, tokenizer, metrics, signed
):
  how = scoring(*metrics, tokenizer=tokenizer, bootstrap=50)
  found = scores.score_pair(pair, text[0], [text[1]], how)
  expected = command_line(tmp_path, pair, *text, how)
  assert list(found) == list(metrics)
  for metric, score in found.items():
    printed = expected[metric]
    assert score.score == pytest.approx(printed["score"], abs=1e-7)
    assert score.mean == pytest.approx(printed["confidence_mean"], abs=1e-7)
    assert score.interval == pytest.approx(printed["confidence_var"], abs=1e-7)
    assert score.signature == printed["signature"]
    assert scoring_metrics.label(metric) == printed["name"]
    assert 0 < score.score < 100
  assert signed in found["bleu"].signature


def test_chinese_ter_counts_characters():
  found = scores.score_pair("en-zh", ["我去"], [["我要去"]], scoring("ter"))
  assert found["ter"].score == pytest.approx(100 / 3)


def test_bleu_by_hand():
  # "a b c d e" against "a b c d e f": every n-gram is right (5/5, 4/4, 3/3,
  # 2/2), so BLEU is the brevity penalty exp(1 - 6/5) alone.
  found = scores.score_pair(
    "de-en", ["a b c d e"], [["a b c d e f"]], scoring("bleu")
  )
  assert found["bleu"].score == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_chrf_by_hand():
  # Characters of "ab" against "abc", no spaces. Order 1: 2 of 2 right, 2 of 3
  # found; order 2: 1 of 1, 1 of 2; higher orders have no n-gram in the
  # hypothesis and do not count. Precision 1, recall 7/12, and beta is 2.
  precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
  expected = 100 * 5 * precision * recall / (4 * precision + recall)
  found = scores.score_pair("de-en", ["ab"], [["abc"]], scoring("chrf"))
  assert found["chrf"].score == pytest.approx(expected)
  # And of each sentence by itself, against the best reference.
  by_sentence = scores.sentence_scores(["ab", "x"], [["abc", "y"], ["q", "x"]])
  assert by_sentence == pytest.approx([expected, 100.0])


def test_ter_of_resamples_without_a_reference():
  """Some have none but the empty one; others have both."""
  found = scores.score_pair(
    "de-en", ["a", "b c"], [["", "b c d e"]], scoring("ter", bootstrap=50)
  )
  # A word too many, and two of four missing.
  assert found["ter"].score == pytest.approx(75.0)
  assert found["ter"].interval > 0


def test_resamples_without_a_match():
  """Some have none, others one: in all metrics the mean is of both."""
  found = scores.score_pair(
    "de-en", ["zzz", "a b c d"], [["x", "a b c e"]], scoring(*ALL, bootstrap=50)
  )
  for name in ("chrf", "chrf++", "ter"):
    assert found[name].interval > 0


def test_ter_by_hand():
  # One word of four to be inserted.
  found = scores.score_pair("de-en", ["a b c"], [["a b c d"]], scoring("ter"))
  assert found["ter"].score == pytest.approx(25.0)


def test_the_better_of_two_references_counts():
  found = scores.score_pair(
    "de-en", ["a b c d"], [["x y z w"], ["a b c d"]], scoring("bleu")
  )
  assert found["bleu"].score == pytest.approx(100.0)
  assert found["bleu"].signature.startswith("nrefs:2|")


def test_no_interval_without_resamples_or_of_one_sentence():
  many = scores.score_pair("de-en", ["a", "b"], [["a", "b"]], scoring("bleu"))
  one = scores.score_pair("de-en", ["a"], [["a"]], scoring("bleu", bootstrap=9))
  for found in (many, one):
    assert found["bleu"].interval is None
    assert "bs:" not in found["bleu"].signature


@pytest.mark.parametrize(
  ("language", "tokenizer", "chosen"),
  [
    ("zh", "intl", "zh"),
    ("zh_Hant", "13a", "zh"),
    ("zho_Hans", "intl", "zh"),
    ("de", "intl", "intl"),
    ("de", "13a", "13a"),
  ],
)
def test_tokenizer_follows_the_paper(language, tokenizer, chosen):
  assert (
    scoring_metrics.bleu_tokenizer(language, Tokenizer(tokenizer)) == chosen
  )
  assert scoring_metrics.tokenizer_notes(language) == []


@pytest.mark.parametrize(("language", "extra"), [("ja", "ja"), ("kor", "ko")])
def test_tokenizers_that_are_not_installed(monkeypatch, language, extra):
  monkeypatch.setattr(
    scoring_metrics.importlib.util, "find_spec", lambda name: None
  )
  assert scoring_metrics.bleu_tokenizer(language) == "intl"
  (note,) = scoring_metrics.tokenizer_notes(language)
  assert f"pip install 'sacrebleu[{extra}]'" in note
  monkeypatch.setattr(
    scoring_metrics.importlib.util, "find_spec", lambda name: name
  )
  assert scoring_metrics.bleu_tokenizer(language) == f"{extra}-mecab"
  assert scoring_metrics.tokenizer_notes(language) == []


def test_tokenizer_is_the_targets_not_the_sources():
  found = scores.score_pair("zh-en", ["a dog"], [["a dog"]], scoring("bleu"))
  assert "|tok:intl|" in found["bleu"].signature


def test_line_breaks_change_no_score():
  how = scoring(*ALL)
  broken = scores.score_pair(
    "de-en", ["a b\nc d\r\ne"], [["a b c\u2028d e f"]], how
  )
  whole = scores.score_pair("de-en", ["a b c d e"], [["a b c d e f"]], how)
  assert broken == whole


@pytest.mark.parametrize(
  ("text", "line"),
  [
    ("a b", "a b"),
    ("a\nb", "a b"),
    ("a\r\nb\n", "a b"),
    ("a\u2028b\x85c", "a b c"),
    ("\n", ""),
    ("", ""),
  ],
)
def test_one_line(text, line):
  assert scores.one_line(text) == line


def test_spbleu_is_left_out_and_said(monkeypatch, tmp_path):
  monkeypatch.setattr(scores, "SACREBLEU_DIR", str(tmp_path))
  how, notes = scoring("bleu", "spbleu").available()
  assert how.metrics == ("bleu",)
  assert len(notes) == 1
  assert f"at {tmp_path}/models/flores200sacrebleuspm" in notes[0]
  with pytest.raises(TaskMoeError, match=r"nothing to score by\. spBLEU is"):
    scoring("spbleu").available()


def test_spbleu_with_its_model(monkeypatch, tmp_path, small_vocabulary):
  """sacrebleu loads whatever model lies there; here a small one."""
  from sacrebleu.tokenizers import tokenizer_spm

  for module in (scores, tokenizer_spm):
    monkeypatch.setattr(module, "SACREBLEU_DIR", str(tmp_path))
  (tmp_path / "models").mkdir()
  (tmp_path / "models" / "flores200sacrebleuspm").write_bytes(
    small_vocabulary.read_bytes()
  )
  how, notes = scoring("spbleu").available()
  assert (how.metrics, notes) == (("spbleu",), [])
  found = scores.score_pair("de-en", ["the dog"], [["the dog"]], how)
  assert found["spbleu"].score == pytest.approx(100.0)
  assert "|tok:flores200|" in found["spbleu"].signature
  flags = scoring_metrics.sacrebleu_flags("spbleu", "en", Tokenizer.INTL)
  assert shlex.join(flags) == "-m bleu --tokenize flores200"


@pytest.mark.parametrize(
  ("hypotheses", "references", "found"),
  [
    (["a", "b"], [["a"]], "2 hypotheses for 1 references"),
    (["a"], [["a"], ["a", "b"]], "1 hypotheses for 1 and 2 references"),
    ([], [[]], "0 hypotheses for 0 references"),
  ],
)
def test_unequal_lengths_are_an_error(hypotheses, references, found):
  message = f"cannot score de-en: {found}. Give one hypothesis for each"
  with pytest.raises(TaskMoeError, match=message):
    scores.score_pair("de-en", hypotheses, references, scoring("bleu"))


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"metrics": ("blue",)},
      r"unknown metric 'blue': accepted are .* \(did you mean 'bleu'\?\), or"
      r" the path of your own, .*\. Set Scoring\.metrics \(--metrics\)\.",
    ),
    (
      {"tokenizer": "zh"},
      r"unknown tokenizer 'zh': accepted are intl, 13a\. Set"
      r" Scoring\.tokenizer \(--tokenizer\)\.",
    ),
    ({"bootstrap": -1}, "bootstrap=-1 is not at least 0"),
  ],
)
def test_mistakes(changes, message):
  values = {"metrics": ("bleu",), "tokenizer": "intl", "bootstrap": 0}
  with pytest.raises(TaskMoeError, match=message):
    Scoring(**{**values, **changes})


def test_averages_count_every_pair_the_same():
  table = {"de-en": 30.0, "fr-en": 40.0, "en-de": 1.0}
  assert groups.average(table, ["de-en", "fr-en"]) == 35.0

"""Scores equal sacrebleu's command line, and averages are as in the paper."""

import json
import math
import subprocess
import sys

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate import scores

GERMAN_HYPOTHESES = [
  "Die Katze sitzt auf der Matte.",
  "Es kostet 3,50 Euro.",
  "",
  "Das ist ein langer Satz, der endet!",
]
GERMAN_REFERENCES = [
  "Die Katze saß auf der Matte.",
  "Das kostet 3,50 Euro.",
  "Ja.",
  "Das ist ein langer Satz, der bald endet!",
]
CHINESE_HYPOTHESES = ["我今天去学校。", "他有三本书和一支笔。"]
CHINESE_REFERENCES = ["我今天要去学校。", "他有三本书和两支笔。"]


def command_line(folder, hypotheses, references, tokenizer):
  """The scores and signatures that `sacrebleu` itself prints."""
  for name, lines in (("hyp.txt", hypotheses), ("ref.txt", references)):
    text = "".join(f"{line}\n" for line in lines)
    (folder / name).write_text(text, encoding="utf-8")
  printed = subprocess.run(
    [
      *(sys.executable, "-m", "sacrebleu", "ref.txt", "-i", "hyp.txt"),
      *("-m", "bleu", "chrf", "--tokenize", tokenizer, "-w", "8"),
    ],
    cwd=folder,
    check=True,
    capture_output=True,
    text=True,
  ).stdout
  return {row["name"]: row for row in json.loads(printed)}


@pytest.mark.parametrize(
  ("pair", "hypotheses", "references", "tokenizer"),
  [
    ("en-de", GERMAN_HYPOTHESES, GERMAN_REFERENCES, "intl"),
    ("en-zh", CHINESE_HYPOTHESES, CHINESE_REFERENCES, "zh"),
  ],
)
def test_equals_sacrebleus_command_line(
  tmp_path, pair, hypotheses, references, tokenizer
):
  expected = command_line(tmp_path, hypotheses, references, tokenizer)
  score = scores.score_pair(pair, hypotheses, references)
  assert score.pair == pair
  assert score.examples == len(references)
  assert score.bleu == pytest.approx(expected["BLEU"]["score"], abs=1e-7)
  assert score.chrf == pytest.approx(expected["chrF2"]["score"], abs=1e-7)
  assert score.bleu_signature == expected["BLEU"]["signature"]
  assert score.chrf_signature == expected["chrF2"]["signature"]
  assert f"|tok:{tokenizer}|" in score.bleu_signature
  assert 0 < score.bleu < 100


def test_bleu_by_hand():
  # "a b c d e" against "a b c d e f": every n-gram is right (5/5, 4/4, 3/3,
  # 2/2) and the translation is short, so BLEU is the brevity penalty alone.
  score = scores.score_pair("de-en", ["a b c d e"], ["a b c d e f"])
  assert score.bleu == pytest.approx(100 * math.exp(1 - 6 / 5))


def test_chrf_by_hand():
  # Characters of "ab" against "abc", no spaces. Order 1: 2 of 2 right, 2 of 3
  # found; order 2: 1 of 1, 1 of 2; higher orders have no n-gram in the
  # hypothesis and do not count. Precision 1, recall 7/12, and beta is 2.
  precision, recall = 1.0, (2 / 3 + 1 / 2) / 2
  expected = 5 * precision * recall / (4 * precision + recall)
  score = scores.score_pair("de-en", ["ab"], ["abc"])
  assert score.chrf == pytest.approx(100 * expected)


@pytest.mark.parametrize(
  ("language", "tokenizer"),
  [("zh", "zh"), ("zh_Hant", "zh"), ("de", "intl"), ("ja", "intl")],
)
def test_tokenizer_follows_the_paper(language, tokenizer):
  assert scores.bleu_tokenizer(language) == tokenizer


def test_tokenizer_is_the_targets_not_the_sources():
  score = scores.score_pair("zh-en", ["a dog ."], ["a dog ."])
  assert "|tok:intl|" in score.bleu_signature


def test_line_breaks_change_no_score():
  broken = scores.score_pair("de-en", ["a b\nc d\r\ne"], ["a b c\u2028d e f"])
  assert broken == scores.score_pair("de-en", ["a b c d e"], ["a b c d e f"])


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


@pytest.mark.parametrize(
  ("hypotheses", "references", "found"),
  [
    (["a", "b"], ["a"], "2 hypotheses for 1 references"),
    (["a"], ["a", "b"], "1 hypotheses for 2 references"),
    ([], [], "0 hypotheses for 0 references"),
  ],
)
def test_unequal_lengths_are_an_error(hypotheses, references, found):
  message = f"cannot score de-en: {found}. Give one hypothesis for each"
  with pytest.raises(TaskMoeError, match=message):
    scores.score_pair("de-en", hypotheses, references)


def score(pair, bleu, chrf):
  return scores.PairScore(pair, 7, bleu, chrf, "bleu", "chrf")


def test_averages_by_direction():
  table = [
    score("de-en", 30.0, 50.0),
    score("fr-en", 40.0, 70.0),
    score("en-de", 20.0, 30.0),
    score("fr-de", 6.0, 10.0),
  ]
  assert scores.averages(table) == {
    "xx-en": {"pairs": 2, "bleu": 35.0, "chrf": 60.0},
    "en-xx": {"pairs": 1, "bleu": 20.0, "chrf": 30.0},
    "all": {"pairs": 4, "bleu": 24.0, "chrf": 40.0},
  }


def test_groups_without_pairs_are_left_out():
  assert set(scores.averages([score("en-de", 1.0, 2.0)])) == {"en-xx", "all"}
  assert set(scores.averages([score("fr-de", 1.0, 2.0)])) == {"all"}
  assert scores.averages([]) == {}

import dataclasses

import pytest

from taskmoe_jax.data.text import cleaning as cleaning_module
from taskmoe_jax.data.text.cleaning import (
  REASONS,
  Cleaning,
  clean,
  letter_table,
  script_names,
)
from taskmoe_jax.data.text.tsv import open_lines
from taskmoe_jax.errors import TaskMoeError

OFF = Cleaning(
  max_characters=None,
  max_words=None,
  max_length_ratio=None,
  ratio_from_characters=0,
  copies=False,
  duplicates=False,
  min_script_share=None,
)
_LINES = [
  ("one", "eins"),
  ("two", "two"),
  ("a b c d", "a b c"),
  ("one", "eins"),
  ("hello there", "x"),
  ("one", "Eins"),
  ("привет", "hallo"),
  ("1 + 1", "2"),
  ("hello", "при hallo"),
]


@pytest.fixture
def write(tmp_path):
  def make(lines, *, columns=2):
    path = tmp_path / "a-b.train.tsv"
    path.write_text(
      "".join("\t".join(line[-columns:]) + "\n" for line in lines)
    )
    return open_lines(path, columns=columns, part="train")

  return make


def _kept(text):
  return text.read(range(len(text)))


@pytest.mark.parametrize(
  ("settings", "reason", "gone"),
  [
    ({}, "empty", []),
    ({"max_characters": 9}, "too_long", [4]),
    ({"max_words": 3}, "too_long", [2]),
    ({"max_characters": 9, "max_words": 3}, "too_long", [2, 4]),
    ({"max_length_ratio": 4.0}, "length_ratio", [4, 7]),
    (
      {"max_length_ratio": 4.0, "ratio_from_characters": 6},
      "length_ratio",
      [4],
    ),
    ({"max_length_ratio": 11.0}, "length_ratio", []),
    ({"copies": True}, "copy", [1]),
    ({"duplicates": True}, "duplicate", [3]),
    ({"min_script_share": 0.5}, "wrong_script", [6]),
    ({"min_script_share": 0.7}, "wrong_script", [6, 8]),
  ],
)
@pytest.mark.parametrize("at_once", [2, 100])
def test_each_reason(write, monkeypatch, settings, reason, gone, at_once):
  monkeypatch.setattr(cleaning_module, "_LINES_AT_ONCE", at_once)
  cleaning = dataclasses.replace(OFF, **settings)
  text = write(_LINES)
  cleaned = clean(text, cleaning, ("en", "de"))
  assert _kept(cleaned) == [
    line for number, line in enumerate(_LINES) if number not in gone
  ]
  counts = {"lines": 9, "kept": 9 - len(gone), **dict.fromkeys(REASONS, 0)}
  assert cleaned.report["cleaning"] == {**counts, reason: len(gone)}
  assert cleaned.report["lines"] == 9
  assert _kept(text) == _LINES


def test_a_line_counts_for_its_first_reason(write):
  cleaning = dataclasses.replace(
    OFF, max_characters=3, copies=True, duplicates=True, min_script_share=0.5
  )
  lines = [("long", "long"), ("ab", "ab"), ("ab", "ab"), ("да", "cd")] * 2
  lines += [("ab", "cd")] * 3
  counts = clean(write(lines), cleaning, ("en", "de")).report["cleaning"]
  assert counts == {
    "lines": 11,
    "kept": 1,
    "empty": 0,
    "too_long": 2,
    "length_ratio": 0,
    "copy": 4,
    "wrong_script": 2,
    "duplicate": 2,
  }


def test_both_sides_are_looked_at(write):
  cleaning = dataclasses.replace(
    OFF, max_characters=6, max_words=2, min_script_share=0.5
  )
  lines = [("a", "b b b"), ("a", "bbbbbbb"), ("a", "г"), ("a", "b")]
  assert _kept(clean(write(lines), cleaning, ("en", "de"))) == [("a", "b")]


def test_text_in_one_language(write):
  cleaning = dataclasses.replace(
    OFF,
    max_characters=6,
    max_length_ratio=1.0,
    copies=True,
    duplicates=True,
    min_script_share=0.5,
  )
  lines = [("ein",), ("ein",), ("zu lange",), ("я",), ("zwei",)]
  cleaned = clean(write(lines, columns=1), cleaning, ("de", "de"))
  assert _kept(cleaned) == [("", "ein"), ("", "zwei")]


def test_nothing_to_clean_and_nothing_left(write):
  for lines in ([], [("a", "a")]):
    cleaned = clean(
      write(lines), dataclasses.replace(OFF, copies=True), ("en", "de")
    )
    assert len(cleaned) == 0
    assert cleaned.report["cleaning"]["kept"] == 0


def test_other_settings_languages_or_text_are_cleaned_anew(write):
  text = write([("да", "ja"), ("ja", "ja")])
  script = dataclasses.replace(OFF, min_script_share=0.5)
  copies = dataclasses.replace(OFF, copies=True)
  assert _kept(clean(text, script, ("ru", "de"))) == [("да", "ja")]
  assert _kept(clean(text, script, ("de", "de"))) != [("да", "ja")]
  assert _kept(clean(text, copies, ("ru", "de"))) == [("да", "ja")]
  text = write([("ja", "ja"), ("da", "ja")])
  assert _kept(clean(text, copies, ("ru", "de"))) == [("da", "ja")]


def test_cleaned_twice_is_read_once(write, monkeypatch):
  text = write(_LINES)
  first = clean(text, OFF, ("en", "de"))
  monkeypatch.setattr(cleaning_module, "_reasons", None)
  assert clean(text, OFF, ("en", "de")).report == first.report


@pytest.mark.parametrize(
  ("settings", "message"),
  [
    ({"max_words": 0}, "max_words=0 is not at least 1, or None for off. Set"),
    ({"max_length_ratio": 0.5}, r"max_length_ratio=0\.5 is not at least 1"),
    ({"max_characters": -1}, r"Set Cleaning\.max_characters\."),
    ({"min_script_share": 1.5}, r"share=1\.5 is not from 0 to 1, or None"),
  ],
)
def test_settings_that_cannot_be(settings, message):
  with pytest.raises(TaskMoeError, match=message):
    dataclasses.replace(OFF, **settings)


@pytest.mark.parametrize(
  ("languages", "names"),
  [
    ("cs fr es fi de et lv lt ro tr en vi sr_Latn eng_Latn", ("LATIN",)),
    ("ru kk uk sr", ("CYRILLIC",)),
    ("zh zh_Hans", ("CJK",)),
    ("zh_Hant", ("CJK", "BOPOMOFO")),
    ("hi mr", ("DEVANAGARI",)),
    ("gu", ("GUJARATI",)),
    ("bn", ("BENGALI",)),
    ("ja", ("CJK", "HIRAGANA", "KATAKANA")),
    ("ko", ("HANGUL", "CJK")),
    ("xx qqq_Latx", None),
  ],
)
def test_scripts_of_languages(languages, names):
  for language in languages.split():
    assert script_names(language) == names
    assert (letter_table(language) is None) == (names is None)


@pytest.mark.parametrize(
  ("language", "own", "other"),
  [
    ("de", "aßÄＡ", "яअ中"),
    ("ru", "яЁ", "aअ"),
    ("gu", "અક", "अa"),
    ("hi", "अक", "અa"),
    ("zh", "中国", "のa한"),
    ("ja", "中のカｶ", "a한"),
    ("ko", "한中", "のa"),
  ],
)
def test_scripts_of_letters(language, own, other):
  table = letter_table(language)
  assert [table[ord(letter)] for letter in own] == [1] * len(own)
  assert [table[ord(letter)] for letter in other] == [2] * len(other)
  assert [table[ord(letter)] for letter in " .,1٣।、"] == [0] * 7

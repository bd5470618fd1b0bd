"""Filters noise out of parallel text from the web, by length, script and so on.

Cleaning makes a table of the lines that are kept (`text_store.py`), so that
everything downstream sees only those, by index. It is done once for a text and
a `Cleaning`, and how many lines each reason removed is stored with the table.
Only train parts are cleaned: a test set is scored as it is.

Which script a language is written in (`script_names`) is CLDR's; which script a
letter is of (`letter_table`) is told by its Unicode name.
"""

import dataclasses
import functools
import hashlib
import sys
import unicodedata
from collections.abc import Sequence
from typing import Any

import babel
import babel.core
import numpy as np
from jaxtyping import Bool, UInt8

from taskmoe_jax.data.text.text_store import (
  TextStore,
  Writer,
  cached_store,
  progress,
)
from taskmoe_jax.errors import TaskMoeError

_LINES_AT_ONCE = 8192
# Increment it with every change to which lines are kept.
_VERSION = 1

# In the order of checking; a line counts for its first reason.
REASONS = (
  "empty",
  "too_long",
  "length_ratio",
  "copy",
  "wrong_script",
  "duplicate",
)


@dataclasses.dataclass(frozen=True)
class Cleaning:
  """What to remove; None or False turns a check off.

  Lines with an empty side are always removed. Lengths are of the longer side; a
  ratio is that of the longer to the shorter side, in characters. A line whose
  longer side has fewer than `ratio_from_characters` may have any ratio: short
  phrases differ by chance.

  Attributes:
    max_characters: The maximum number of characters.
    max_words: The maximum number of words, separated by spaces.
    max_length_ratio: The maximum ratio.
    ratio_from_characters: See above.
    copies: Whether to remove a target equal to its source.
    duplicates: Whether to keep only the first of equal pairs of sentences.
    min_script_share: The smallest share of a side's letters that are of its
      language's script. A side without letters, or in a language whose script
      is not known, is kept.
  """

  max_characters: int | None
  max_words: int | None
  max_length_ratio: float | None
  ratio_from_characters: int
  copies: bool
  duplicates: bool
  min_script_share: float | None

  def __post_init__(self):
    for name in ("max_characters", "max_words", "max_length_ratio"):
      value = getattr(self, name)
      if value is not None and not value >= 1:
        raise TaskMoeError(
          f"{name}={value} is not at least 1, or None for off. Set"
          f" Cleaning.{name}."
        )
    share = self.min_script_share
    if share is not None and not 0 <= share <= 1:
      raise TaskMoeError(
        f"min_script_share={share} is not from 0 to 1, or None for off. Set"
        " Cleaning.min_script_share."
      )


def clean(
  text: TextStore, cleaning: Cleaning, languages: tuple[str, str]
) -> TextStore:
  """Returns what is kept of a text; `report["cleaning"]` counts what is not.

  Meanwhile it takes up to 40 bytes of memory per line, to find duplicates.

  Args:
    text: The whole text. If both languages are the same it is text in one
      language, and its sides are not compared.
    cleaning: What to remove.
    languages: Languages of its first and second side.
  """
  key = {
    "text": text.key,
    "cleaning": dataclasses.asdict(cleaning),
    "languages": languages,
    "unicode": unicodedata.unidata_version,
    "cleaning_version": _VERSION,
  }
  make = functools.partial(_make, text, cleaning, languages)
  return cached_store(
    f"{'-'.join(languages)}.cleaned", key, make, path=text.path
  )


def _make(
  text: TextStore,
  cleaning: Cleaning,
  languages: tuple[str, str],
  writer: Writer,
) -> dict[str, Any]:
  reasons = np.zeros(len(text), np.uint8)
  hashes = np.zeros(len(text) if cleaning.duplicates else 0, np.uint64)
  with progress(
    f"cleaning {'-'.join(languages)}",
    total=len(text),
    num_bytes=text.path.stat().st_size,
  ) as advance:
    for begin in range(0, len(text), _LINES_AT_ONCE):
      lines = text.read(range(begin, min(begin + _LINES_AT_ONCE, len(text))))
      part = slice(begin, begin + len(lines))
      reasons[part] = _reasons(lines, cleaning, languages)
      if cleaning.duplicates:
        hashes[part] = [_hash(line) for line in lines]
      advance(len(lines))
  if cleaning.duplicates:
    (left,) = np.nonzero(reasons == 0)
    _, first = np.unique(hashes[left], return_index=True)
    again = np.ones(len(left), bool)
    again[first] = False
    reasons[left[again]] = 1 + REASONS.index("duplicate")
  for begin in range(0, len(text), _LINES_AT_ONCE):
    part = slice(begin, begin + _LINES_AT_ONCE)
    writer.records.write(text.records[part][reasons[part] == 0].tobytes())
  counts = np.bincount(reasons, minlength=1 + len(REASONS)).tolist()
  return {
    **text.report,
    "cleaning": {
      "lines": len(text),
      "kept": counts[0],
      **dict(zip(REASONS, counts[1:], strict=True)),
    },
  }


def _hash(line: tuple[str, str]) -> int:
  """64 bits: of 100 million pairs, one in 3,700 runs loses one wrongly."""
  data = "\0".join(line).encode()
  return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest())


def _reasons(
  lines: Sequence[tuple[str, str]],
  cleaning: Cleaning,
  languages: tuple[str, str],
) -> UInt8[np.ndarray, "lines"]:
  """Number of each line's reason, from 1; 0 for those that are kept."""
  sides = [list(side) for side in zip(*lines, strict=True)]
  alone = languages[0] == languages[1]
  compared: Sequence[str] = languages
  if alone:
    sides, compared = sides[1:], languages[1:]
  sizes = np.array([[len(text) for text in side] for side in sides])
  found = dict.fromkeys(REASONS, np.zeros(len(lines), bool))
  found["empty"] = np.any(
    [[not text.strip() for text in side] for side in sides], axis=0
  )
  longest, shortest = sizes.max(axis=0), sizes.min(axis=0)
  if cleaning.max_characters is not None:
    found["too_long"] = longest > cleaning.max_characters
  if cleaning.max_words is not None:
    words = np.array([[len(text.split()) for text in side] for side in sides])
    found["too_long"] = found["too_long"] | (
      words.max(axis=0) > cleaning.max_words
    )
  if cleaning.max_length_ratio is not None:
    found["length_ratio"] = (longest > cleaning.max_length_ratio * shortest) & (
      longest >= cleaning.ratio_from_characters
    )
  if cleaning.copies and not alone:
    found["copy"] = np.array([a.strip() == b.strip() for a, b in lines])
  if cleaning.min_script_share is not None:
    found["wrong_script"] = np.any(
      [
        _of_another_script(side, language, cleaning.min_script_share)
        for side, language in zip(sides, compared, strict=True)
      ],
      axis=0,
    )
  numbers = np.zeros(len(lines), np.uint8)
  for number, reason in reversed(list(enumerate(REASONS, 1))):
    numbers[found[reason]] = number
  return numbers


def _of_another_script(
  texts: Sequence[str], language: str, min_share: float
) -> Bool[np.ndarray, "lines"]:
  table = letter_table(language)
  if table is None:
    return np.zeros(len(texts), bool)
  # A newline for each line, so that none is empty.
  joined = "".join(text + "\n" for text in texts)
  codepoints = np.frombuffer(joined.encode("utf-32-le"), np.uint32)
  letters = table[codepoints]
  begins = np.cumsum([0, *(len(text) + 1 for text in texts[:-1])])
  own = np.add.reduceat(letters == 1, begins, dtype=np.int64)
  all_letters = np.add.reduceat(letters > 0, begins, dtype=np.int64)
  return own < min_share * all_letters


# ISO 15924 codes whose English name in CLDR does not begin as the Unicode names
# of their letters do, or that stand for several scripts.
_NAMES = {
  "Aran": ("ARABIC",),
  "Beng": ("BENGALI",),
  "Cans": ("CANADIAN",),
  "Hani": ("CJK",),
  "Hans": ("CJK",),
  "Hant": ("CJK", "BOPOMOFO"),
  "Jpan": ("CJK", "HIRAGANA", "KATAKANA"),
  "Kore": ("HANGUL", "CJK"),
  "Lana": ("TAI",),
  "Latf": ("LATIN",),
  "Latg": ("LATIN",),
  "Lisu": ("LISU",),
  "Mand": ("MANDAIC",),
  "Mtei": ("MEETEI",),
  "Nkoo": ("NKO",),
  "Olck": ("OL",),
  "Orya": ("ORIYA",),
}
# Scripts of letters whose names begin with another word.
_ALIASES = {"FULLWIDTH": "LATIN", "HALFWIDTH": "KATAKANA", "KANGXI": "CJK"}


@functools.cache
def script_names(language: str) -> tuple[str, ...] | None:
  """First words of the names of a language's letters; None if unknown.

    >>> script_names("ja")
    ('CJK', 'HIRAGANA', 'KATAKANA')

  A code may say its script itself: `sr_Latn`.
  """
  language, *subtags = language.split("_")
  scripts = [tag for tag in subtags if len(tag) == 4 and tag.isalpha()]
  if not scripts:
    full_tag = babel.core.get_global("likely_subtags").get(language, "")
    scripts = full_tag.split("_")[1:2]
  if not scripts:
    return None
  code = scripts[0].title()
  if code in _NAMES:
    return _NAMES[code]
  name = babel.Locale("en").scripts.get(code)
  return (name.split()[0].upper(),) if name else None


@functools.cache
def _letters() -> tuple[dict[str, int], UInt8[np.ndarray, "codepoints"]]:
  """Numbers of scripts, and of each codepoint's script; 0 if not a letter."""
  numbers: dict[str, int] = {}
  table = np.zeros(sys.maxunicode + 1, np.uint8)
  # Beyond are private use, tags and unassigned codepoints, not letters.
  for codepoint in range(0x40000):
    character = chr(codepoint)
    if character.isalpha():
      word = unicodedata.name(character, "").split(" ")[0]
      word = _ALIASES.get(word, word)
      number = numbers.setdefault(word, min(len(numbers) + 1, 255))
      table[codepoint] = number
  return numbers, table


@functools.cache
def letter_table(language: str) -> UInt8[np.ndarray, "codepoints"] | None:
  """For each codepoint: 0 not a letter, 1 the language's script, 2 another.

  None if the language's script is not known.
  """
  names = script_names(language)
  if names is None:
    return None
  numbers, table = _letters()
  own = [numbers[name] for name in names if name in numbers]
  if not own:
    return None
  return np.where(np.isin(table, own), 1, 2 * (table > 0)).astype(np.uint8)

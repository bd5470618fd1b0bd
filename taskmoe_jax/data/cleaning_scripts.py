"""Which writing system a letter is of, and which a language is written in.

The letters' scripts are read off their Unicode names (CYRILLIC SMALL LETTER A),
the languages' are those that CLDR holds the likeliest (`kk`: Cyrillic).
"""

import functools
import sys
import unicodedata

import babel
import babel.core
import numpy as np
from jaxtyping import UInt8

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
# Letters that belong to a script though their names begin with another word.
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
    likely = babel.core.get_global("likely_subtags").get(language, "")
    scripts = likely.split("_")[1:2]
  if not scripts:
    return None
  code = scripts[0].title()
  if code in _NAMES:
    return _NAMES[code]
  name = babel.Locale("en").scripts.get(code)
  return (name.split()[0].upper(),) if name else None


@functools.cache
def _letters() -> tuple[dict[str, int], UInt8[np.ndarray, "codepoints"]]:
  """Numbers of scripts, and the number of each letter's; 0 for no letter."""
  numbers = {}
  table = np.zeros(sys.maxunicode + 1, np.uint8)
  # Beyond are private use, tags and nothing, none of them letters.
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
  """For each codepoint: 0 no letter, 1 of the language's script, 2 of another.

  None for a language whose script is not known.
  """
  names = script_names(language)
  if names is None:
    return None
  numbers, table = _letters()
  own = [numbers[name] for name in names if name in numbers]
  if not own:
    return None
  return np.where(np.isin(table, own), 1, 2 * (table > 0)).astype(np.uint8)

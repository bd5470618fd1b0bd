"""Endless parallel text, generated offline from Unicode CLDR.

A sentence is drawn as phrases without a language (`phrases.py`), which are then
rendered in each language:

  en  Monday, March 3, 2031 – Poland (5 kilometers)
  de  Montag, 3. März 2031 – Polen (5 Kilometer)
  ru  понедельник, 3 марта 2031 г. – Польша (5 километров)
"""

import datetime
import hashlib
import itertools
import zlib
from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any, TypeVar

from taskmoe_jax.data.cldr import phrases
from taskmoe_jax.data.cldr.phrases import LANGUAGES, Phrase, pools, render
from taskmoe_jax.errors import TaskMoeError, one_of

PARTS = ("train", "validation", "test")

_PART_OF_TENTH = 8 * ("train",) + ("validation", "test")
_T = TypeVar("_T")

# A duration and the next shorter one, and the most of that below a longer one.
_DURATIONS = tuple(itertools.pairwise(phrases.DURATIONS))
_MOST_OF = {
  "month": 11, "week": 3, "day": 6, "hour": 23, "minute": 59, "second": 59,
}  # fmt: skip

_FIRST_DAY = datetime.date(1950, 1, 1).toordinal()
_NUM_DAYS = datetime.date(2050, 1, 1).toordinal() - _FIRST_DAY


class CldrText:
  """English and one other language; each example is a pure function of its
  index, so that a reader can start anywhere and needs no state.

  Every seed is another text, and every language has its own training text.
  Validation and test hold the same English sentences for all languages, so
  that the scores of two pairs differ by the languages alone.

  Raises:
    TaskMoeError: for a language or part that does not exist.
  """

  def __init__(self, language: str, part: str, seed: int):
    if language not in LANGUAGES[1:]:
      raise TaskMoeError(
        one_of("language", language, LANGUAGES[1:])
        + ". CLDR text pairs English with one of these; name it in the pairs"
        " of the mixture."
      )
    if part not in PARTS:
      raise TaskMoeError(
        one_of("part", part, PARTS) + ". Set the split of the seqio task."
      )
    self._language = language
    self._part = part
    self._key = f"{seed}/{part}/{language if part == 'train' else ''}"

  def __getitem__(self, index: int) -> tuple[str, str]:
    """Returns English and the other language of example `index`, from 0 on."""
    assert index >= 0, "there is no last example to count from"
    attempt = 0
    while True:
      sentence = draw_sentence(Draws(f"{self._key}/{index}/{attempt}"))
      english = render(sentence, "en")
      if part_of(english) == self._part:
        return english, render(sentence, self._language)
      attempt += 1


def part_of(english: str) -> str:
  """The only part in which an English sentence may occur, for any seed.

  Validation and test have a tenth of all sentences each. The part is a function
  of the text, not of what it was drawn from, so that parts share no sentence.
  """
  return _PART_OF_TENTH[zlib.crc32(english.encode()) % 10]


class Draws:
  """Uniform choices that depend on nothing but a key.

  A hash of the key is read as one large number, digit by digit. That costs a
  seventh of seeding `random.Random`, and is the same on every machine.
  """

  def __init__(self, key: str):
    self._bits = int.from_bytes(hashlib.blake2b(key.encode()).digest(), "big")

  def below(self, limit: int) -> int:
    """An integer from 0 to `limit` - 1."""
    self._bits, value = divmod(self._bits, limit)
    return value

  def choose(self, options: Sequence[_T]) -> _T:
    return options[self.below(len(options))]

  def several_of(self, options: Sequence[_T]) -> list[_T]:
    """Two or three different options, in any order."""
    remaining = list(options)
    count = 2 + self.below(2)
    return [remaining.pop(self.below(len(remaining))) for _ in range(count)]


def draw_sentence(draws: Draws) -> Phrase:
  """Draws a sentence: phrases in one of the shapes below."""
  pattern, kinds = draws.choose(_SENTENCES)
  arguments: tuple[Any, ...] = (pattern, *(draw(draws) for draw in kinds))
  return (phrases.joined, *arguments)


# Kinds of phrases.


def _calendar(draws: Draws) -> Phrase:
  """A date, with or without weekday and time."""
  day = _day(draws)
  width = draws.choose(("full", "full", "long"))
  if draws.below(3):
    return (phrases.date, day, width)
  moment = datetime.datetime.combine(day, _clock(draws))
  return (phrases.date_time, moment, width, draws.choose(("short", "medium")))


def _part_of_date(draws: Draws) -> Phrase:
  skeleton = draws.choose(("yMMMM", "MMMMd"))
  return (phrases.part_of_date, _day(draws), skeleton)


def _time(draws: Draws) -> Phrase:
  width = draws.choose(("short", "short", "medium"))
  return (phrases.time, _clock(draws), width)


def _relative(draws: Draws) -> Phrase:
  count = draws.choose((1, -1)) * (1 + draws.below(40))
  return (phrases.relative, draws.choose(tuple(phrases.DURATIONS)), count)


def _duration(draws: Draws) -> Phrase:
  """A duration in one unit, or in one and the next shorter."""
  longer, shorter = draws.choose(_DURATIONS)
  value = Decimal(1 + draws.below(99))
  if draws.below(2):
    return (phrases.unit, f"duration-{longer}", value)
  rest = Decimal(1 + draws.below(_MOST_OF[shorter]))
  return (
    phrases.two_units,
    f"duration-{longer}",
    value,
    f"duration-{shorter}",
    rest,
  )


def _unit(draws: Draws) -> Phrase:
  return (phrases.unit, draws.choose(pools().units), _number(draws))


def _money(draws: Draws) -> Phrase:
  return (phrases.money, draws.choose(pools().currencies), _number(draws))


def _percent(draws: Draws) -> Phrase:
  if draws.below(2):
    return (phrases.percent, Decimal(1 + draws.below(100)).scaleb(-2))
  return (phrases.percent, _with_tenth(draws, 99).scaleb(-2))


def _compact(draws: Draws) -> Phrase:
  """2 thousand to 999 billion; the mantissa is never 1 (see phrases.py)."""
  power = draws.choose((3, 6, 6, 9))
  if power > 3 and draws.below(2):
    mantissa = _with_tenth(draws, 20)
  else:
    mantissa = Decimal(2 + draws.below(draws.choose((98, 998))))
  return (phrases.compact, mantissa.scaleb(power))


def _territory(draws: Draws) -> Phrase:
  return (phrases.territory, draws.choose(pools().territories))


def _language(draws: Draws) -> Phrase:
  return (phrases.language_name, draws.choose(pools().languages))


def _territories(draws: Draws) -> Phrase:
  codes = draws.several_of(pools().territories)
  return _listed(draws, [(phrases.territory, code) for code in codes])


def _languages(draws: Draws) -> Phrase:
  codes = draws.several_of(pools().languages)
  return _listed(draws, [(phrases.language_name, code) for code in codes])


def _units(draws: Draws) -> Phrase:
  names = draws.several_of(pools().units)
  return _listed(draws, [(phrases.unit, n, _number(draws)) for n in names])


def _moneys(draws: Draws) -> Phrase:
  codes = draws.several_of(pools().currencies)
  return _listed(draws, [(phrases.money, c, _number(draws)) for c in codes])


def _listed(draws: Draws, items: list[Phrase]) -> Phrase:
  arguments: tuple[Any, ...] = (draws.choose(("standard", "or")), *items)
  return (phrases.listed, *arguments)


def _mixed(*kinds: Callable[[Draws], Phrase]) -> Callable[[Draws], Phrase]:
  return lambda draws: draws.choose(kinds)(draws)


_name = _mixed(_territory, _territory, _language)
_names = _mixed(_territories, _languages)
_amounts = _mixed(_units, _moneys)
_topic = _mixed(_calendar, _calendar, _part_of_date, _name)
_detail = _mixed(
  _unit, _unit, _unit, _duration, _duration, _money, _money, _relative,
  _percent, _compact, _time,
)  # fmt: skip

# (how often, pattern, kinds): the shapes of sentences.
_SHAPES = (
  (2, "{}", (_calendar,)),
  (2, "{}", (_amounts,)),
  (3, "{}: {}", (_topic, _detail)),
  (2, "{} – {}", (_calendar, _detail)),
  (1, "{} – {}", (_calendar, _calendar)),
  (2, "{}: {}", (_topic, _amounts)),
  (3, "{}: {}; {}", (_topic, _detail, _detail)),
  (3, "{} – {} ({})", (_topic, _detail, _detail)),
  (2, "{} ({}): {}", (_name, _topic, _detail)),
  (2, "{} – {}: {}", (_calendar, _name, _detail)),
  (1, "{}: {}", (_names, _detail)),
  (1, "{}: {} ({})", (_topic, _names, _detail)),
)
_SENTENCES = tuple(
  (pattern, kinds)
  for how_often, pattern, kinds in _SHAPES
  for _ in range(how_often)
)


# Numbers and days.


def _number(draws: Draws) -> Decimal:
  """Mostly 1 to 3 digits, some with a tenth, some above ten thousand."""
  size = draws.below(10)
  if size < 5:
    return Decimal(1 + draws.below(99))
  if size < 8:
    return Decimal(100 + draws.below(900))
  if size == 8:
    return _with_tenth(draws, 99)
  return Decimal(10_000 + 100 * draws.below(900))


def _with_tenth(draws: Draws, limit: int) -> Decimal:
  """A number from 1.1 to below `limit` + 1 whose tenth is not 0.

  A Decimal keeps the digits that are said, on which plural forms depend.
  """
  tenths = 10 * (1 + draws.below(limit)) + 1 + draws.below(9)
  return Decimal(tenths).scaleb(-1)


def _day(draws: Draws) -> datetime.date:
  return datetime.date.fromordinal(_FIRST_DAY + draws.below(_NUM_DAYS))


def _clock(draws: Draws) -> datetime.time:
  second = draws.below(24 * 60 * 60)
  return datetime.time(second // 3600, second // 60 % 60, second % 60)

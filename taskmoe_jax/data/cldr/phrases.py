"""Phrases that Unicode CLDR can say in every language of `cldr_30`.

A phrase is plain data without a language: a renderer and its arguments. Any
language renders the same phrase to text of the same meaning:

  >>> phrase = (unit, "length-kilometer", Decimal(5))
  >>> render(phrase, "en"), render(phrase, "cs"), render(phrase, "zh")
  ('5 kilometers', '5 kilometrů', '5公里')

The words are CLDR's, through Babel. Where Babel does not follow CLDR we avoid
the case or do it here: root aliases (a pattern equal to that of the short form
is stored only there), four-digit numbers (Babel groups them in every language,
Spanish does not) and compact numbers with mantissa 1 (French "1 millions").

`pools` has the arguments to draw from: the territories, languages, currencies
and units that all of the languages have words for.
"""

import datetime
import functools
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from babel import Locale, dates, lists, numbers

Phrase = tuple[Callable[..., str], *tuple[Any, ...]]
Duration = Literal["year", "month", "week", "day", "hour", "minute", "second"]

LANGUAGES = (
  "en", "cs", "de", "es", "et", "fi", "fr", "gu",
  "hi", "kk", "lt", "lv", "ro", "ru", "tr", "zh",
)  # fmt: skip

# From long to short, with their seconds as `format_timedelta` counts them.
DURATIONS: dict[Duration, int] = {
  "year": 31_536_000,
  "month": 2_592_000,
  "week": 604_800,
  "day": 86_400,
  "hour": 3_600,
  "minute": 60,
  "second": 1,
}


def render(phrase: Phrase, language: str) -> str:
  """Says the phrase in a language, with plain spaces.

  CLDR's no-break spaces are typesetting: a vocabulary that normalises text as
  SentencePiece does (NFKC) cannot restore them, and BLEU should not ask for it.
  """
  text = _render(phrase, language)
  return text.replace("\xa0", " ").replace("\u202f", " ")


# Renderers: the language, then the arguments of the phrase.


def date(language: str, day: datetime.date, width: str) -> str:
  """A date with (`full`) or without (`long`) its weekday."""
  return dates.format_date(day, width, locale(language))


def part_of_date(language: str, day: datetime.date, skeleton: str) -> str:
  """Month and year (`yMMMM`) or day and month (`MMMMd`) of a date."""
  return dates.format_skeleton(
    skeleton, day, fuzzy=False, locale=locale(language)
  )


def time(language: str, moment: datetime.time, width: str) -> str:
  """A time with (`medium`) or without (`short`) seconds, and without a zone."""
  return dates.format_time(moment, width, locale=locale(language))


def date_time(
  language: str, moment: datetime.datetime, date_width: str, time_width: str
) -> str:
  """A date with its time, joined as CLDR does for a date of that width.

  `format_datetime` has one width for both, and a zone in the wide ones.
  """
  pattern = locale(language).datetime_formats[date_width]
  return pattern.format(
    time(language, moment.time(), time_width),
    date(language, moment.date(), date_width),
  )


def relative(language: str, duration: Duration, count: int) -> str:
  """A time from now: "in 3 days", and "3 days ago" for a negative count."""
  return dates.format_timedelta(
    count * DURATIONS[duration],
    granularity=duration,
    threshold=math.inf,  # never round to a longer unit
    add_direction=True,
    locale=locale(language),
  )


def unit(language: str, name: str, value: Decimal) -> str:
  """A quantity, the unit spelt out in the plural form of its number."""
  form = locale(language).plural_form(value)
  return unit_pattern(language, name, form).format(number(language, value))


def two_units(
  language: str, name: str, value: Decimal, next_name: str, next_value: Decimal
) -> str:
  """One quantity in two units, such as "3 hours, 5 minutes"."""
  return _two_units_pattern(language).format(
    unit(language, name, value), unit(language, next_name, next_value)
  )


def number(language: str, value: Decimal) -> str:
  return numbers.format_decimal(value, locale=locale(language))


def percent(language: str, fraction: Decimal) -> str:
  return numbers.format_percent(
    fraction, locale=locale(language), decimal_quantization=False
  )


def money(language: str, currency: str, amount: Decimal) -> str:
  """An amount, the currency by name in the plural form of its number."""
  return numbers.format_currency(
    amount,
    currency,
    locale=locale(language),
    format_type="name",
    # The number is said as it is: "5 euros", whose plural form in Czech and
    # Russian is another than that of "5.00 euros".
    currency_digits=False,
  )


def compact(language: str, value: Decimal) -> str:
  """A round large number in words, such as "3.4 million".

  Languages count in different powers: Hindi and Gujarati in lakh and crore,
  Chinese in 10,000s, whence three digits of fraction to lose nothing.
  """
  chosen = locale(language)
  widths = chosen.compact_decimal_formats
  return numbers.format_compact_decimal(
    value,
    format_type="long" if "long" in widths else "short",  # root alias
    locale=chosen,
    fraction_digits=3,
  )


def territory(language: str, code: str) -> str:
  return locale(language).territories[code]


def language_name(language: str, code: str) -> str:
  return locale(language).languages[code]


def listed(
  language: str, style: Literal["standard", "or"], *phrases: Phrase
) -> str:
  """A list that ends with "and" (`standard`) or with "or" (`or`)."""
  return lists.format_list(
    [_render(phrase, language) for phrase in phrases], style, locale(language)
  )


def joined(language: str, pattern: str, *phrases: Phrase) -> str:
  """Phrases joined by punctuation that means the same in all languages."""
  return pattern.format(*(_render(phrase, language) for phrase in phrases))


# What the renderers look up.


@functools.cache
def locale(language: str) -> Locale:
  return Locale.parse(language)


def _render(phrase: Phrase, language: str) -> str:
  return phrase[0](language, *phrase[1:])


@functools.cache
def unit_pattern(language: str, name: str, form: str) -> str:
  """The long pattern of a unit, or the short one that it is an alias of.

  Babel's `format_unit` does not follow CLDR's root alias from long to short
  and makes up text for what is stored there alone (all of Chinese).
  """
  # Babel has no public access to the patterns of a unit.
  widths = locale(language)._data["unit_patterns"].get(name, {})
  for width in ("long", "short"):
    patterns = widths.get(width, {})
    for candidate in (form, "other"):
      if patterns.get(candidate):
        return patterns[candidate]
  return ""


@functools.cache
def _two_units_pattern(language: str) -> str:
  """The list pattern of two units, along the aliases of CLDR's root.

  Babel's `format_list` looks for them by whole styles, but a language may
  store a part of a style.
  """
  patterns = locale(language).list_patterns
  styles = ("unit", "unit-short", "standard")
  return next(
    patterns[style]["2"]
    for style in styles
    if style in patterns and "2" in patterns[style]
  )


# The most populous, and those in which the 16 languages are spoken.
TERRITORIES = (
  "CN IN US ID PK NG BR BD RU MX JP ET PH EG VN IR TR DE TH GB FR ZA IT KE CO"
  " ES AR UA PL CA MA UZ AU KZ RO CL NL GR CZ PT SE HU AT CH FI EE LV LT DK NO"
  " IE IS NZ KR IL SA BE BG HR SK"
)
NAMED_LANGUAGES = (
  "en cs de es et fi fr gu hi kk lt lv ro ru tr zh ar bn pt ja ko it pl uk nl"
  " el hu sv da no he fa ur ta vi th id bg hr sr"
)
CURRENCIES = (
  "USD EUR JPY GBP CNY INR RUB TRY CZK PLN RON BRL MXN CAD AUD CHF SEK NOK DKK"
  " KRW KZT ZAR HUF UAH EGP"
)
UNITS = (
  "length-kilometer length-meter length-centimeter length-millimeter"
  " length-mile length-foot length-inch length-nautical-mile length-light-year"
  " mass-kilogram mass-gram mass-tonne mass-ounce volume-liter"
  " volume-milliliter volume-cubic-meter area-square-meter"
  " area-square-kilometer area-hectare speed-kilometer-per-hour"
  " speed-meter-per-second temperature-celsius angle-degree power-watt"
  " power-kilowatt power-horsepower energy-joule energy-kilocalorie"
  " frequency-hertz digital-gigabyte"
)


class Pools(NamedTuple):
  """The codes of each kind, in the order in which they are written above."""

  territories: tuple[str, ...]
  languages: tuple[str, ...]
  currencies: tuple[str, ...]
  units: tuple[str, ...]


@functools.cache
def pools() -> Pools:
  """The pools, each without the codes that some language cannot name."""
  return Pools(
    named("territories", TERRITORIES),
    named("languages", NAMED_LANGUAGES),
    named("currencies", CURRENCIES),
    named_units(UNITS),
  )


def named(kind: str, codes: str) -> tuple[str, ...]:
  """Keeps the codes that have a name in all languages.

  Where CLDR has no name it repeats the code ("CZK"), which is no translation.
  """
  tables = [getattr(locale(language), kind) for language in LANGUAGES]
  return tuple(
    code
    for code in codes.split()
    if all(table.get(code, code) != code for table in tables)
  )


def named_units(units: str) -> tuple[str, ...]:
  """Keeps the units that are words, not signs, in all plural forms."""
  return tuple(
    unit
    for unit in units.split()
    if all(_has_words(unit, language) for language in LANGUAGES)
  )


def _has_words(unit: str, language: str) -> bool:
  forms = {*locale(language).plural_form.tags, "other"}
  patterns = [unit_pattern(language, unit, form) for form in forms]
  return all(
    "{0}" in pattern and any(c.isalpha() for c in pattern)
    for pattern in patterns
  )

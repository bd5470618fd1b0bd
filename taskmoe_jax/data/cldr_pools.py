"""What the text of `cldr_30` speaks of: codes that every language can name.

The pools are small on purpose. The demo trains a model of three million
parameters for five minutes, which has to learn each name in 16 languages.
They may be widened at will: a code that some language cannot name is left out
for all of them.
"""

import functools
from typing import NamedTuple

from taskmoe_jax.data.cldr_phrases import LANGUAGES, locale, unit_pattern

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

"""Phrases from CLDR by hand, in languages that we can read."""

import datetime
from decimal import Decimal

import pytest

from taskmoe_jax.data.cldr import phrases
from taskmoe_jax.data.cldr.phrases import (
  LANGUAGES,
  named,
  named_units,
  pools,
  render,
)

DAY = datetime.date(2031, 3, 3)
MOMENT = datetime.datetime(2031, 3, 3, 14, 5, 9)


@pytest.mark.parametrize(
  ("language", "text"),
  [
    ("en", "Monday, March 3, 2031"),
    ("de", "Montag, 3. März 2031"),
    ("fr", "lundi 3 mars 2031"),
    ("es", "lunes, 3 de marzo de 2031"),
    ("ru", "понедельник, 3 марта 2031 г."),
    ("cs", "pondělí 3. března 2031"),
    ("zh", "2031年3月3日星期一"),
  ],
)
def test_full_date(language, text):
  assert render((phrases.date, DAY, "full"), language) == text


@pytest.mark.parametrize(
  ("language", "text"),
  [
    ("en", "March 3, 2031, 2:05 PM"),
    ("de", "3. März 2031, 14:05"),
    ("fi", "3. maaliskuuta 2031 14.05"),
    ("zh", "2031年3月3日 14:05"),
  ],
)
def test_date_and_time_have_no_zone(language, text):
  assert render((phrases.date_time, MOMENT, "long", "short"), language) == text


def test_parts_of_a_date_and_seconds():
  assert render((phrases.part_of_date, DAY, "yMMMM"), "cs") == "březen 2031"
  assert render((phrases.part_of_date, DAY, "MMMMd"), "cs") == "3. března"
  assert render((phrases.time, MOMENT.time(), "medium"), "en") == "2:05:09 PM"


@pytest.mark.parametrize(
  ("language", "texts"),
  [
    ("en", ["1 mile", "2 miles", "5 miles", "2.5 miles", "21 miles"]),
    ("de", ["1 Meile", "2 Meilen", "5 Meilen", "2,5 Meilen", "21 Meilen"]),
    ("fr", ["1 mile", "2 miles", "5 miles", "2,5 miles", "21 miles"]),
    ("ru", ["1 миля", "2 мили", "5 миль", "2,5 мили", "21 миля"]),
    ("cs", ["1 míle", "2 míle", "5 mil", "2,5 míle", "21 mil"]),
    ("ro", ["1 milă", "2 mile", "5 mile", "2,5 mile", "21 de mile"]),
    # Chinese has no long pattern of its own: this is the alias of CLDR's root.
    ("zh", ["1英里", "2英里", "5英里", "2.5英里", "21英里"]),
  ],
)
def test_plural_forms_of_a_unit(language, texts):
  values = ("1", "2", "5", "2.5", "21")
  assert texts == [
    render((phrases.unit, "length-mile", Decimal(value)), language)
    for value in values
  ]


@pytest.mark.parametrize(
  ("language", "texts"),
  [
    ("en", ["1 euro", "5 euros", "12.5 US dollars"]),
    ("de", ["1 Euro", "5 Euro", "12,5 US-Dollar"]),
    ("cs", ["1 euro", "5 eur", "12,5 amerického dolaru"]),
    ("fr", ["1 euro", "5 euros", "12,5 dollars des États-Unis"]),
  ],
)
def test_money_is_said_by_name(language, texts):
  amounts = (("EUR", "1"), ("EUR", "5"), ("USD", "12.5"))
  assert texts == [
    render((phrases.money, code, Decimal(value)), language)
    for code, value in amounts
  ]


@pytest.mark.parametrize(
  ("language", "texts"),
  [
    ("en", ["in 3 days", "3 days ago", "in 40 weeks"]),
    ("de", ["in 3 Tagen", "vor 3 Tagen", "in 40 Wochen"]),
    ("ru", ["через 3 дня", "3 дня назад", "через 40 недель"]),
    ("zh", ["3天后", "3天前", "40周后"]),
  ],
)
def test_relative_time_keeps_its_unit(language, texts):
  durations = (("day", 3), ("day", -3), ("week", 40))
  assert texts == [
    render((phrases.relative, *duration), language) for duration in durations
  ]


@pytest.mark.parametrize(
  ("language", "text"),
  [
    ("en", "3 hours, 5 minutes"),
    ("de", "3 Stunden, 5 Minuten"),
    ("es", "3 horas y 5 minutos"),
    ("ru", "3 часа 5 минут"),
    ("zh", "3小时5分钟"),
  ],
)
def test_two_units(language, text):
  hours = ("duration-hour", Decimal(3), "duration-minute", Decimal(5))
  assert render((phrases.two_units, *hours), language) == text


@pytest.mark.parametrize(
  ("language", "texts"),
  [
    ("en", ["12.5%", "345 thousand", "3.4 million"]),
    ("de", ["12,5 %", "345 Tausend", "3,4 Millionen"]),
    ("cs", ["12,5 %", "345 tisíc", "3,4 milionu"]),
    ("tr", ["%12,5", "345 bin", "3,4 milyon"]),
    ("hi", ["12.5%", "3.45 लाख", "34 लाख"]),  # a lakh is 100,000
    ("zh", ["12.5%", "34.5万", "340万"]),  # 万 is 10,000
  ],
)
def test_percentages_and_compact_numbers(language, texts):
  assert texts == [
    render((phrases.percent, Decimal("0.125")), language),
    render((phrases.compact, Decimal(345_000)), language),
    render((phrases.compact, Decimal(3_400_000)), language),
  ]


def test_lists_and_punctuation():
  names = [(phrases.territory, code) for code in ("DE", "FR", "FI")]
  either = (phrases.listed, "or", *names)
  sentence = (phrases.joined, "{} ({})", (phrases.language_name, "et"), either)
  assert render(sentence, "en") == "Estonian (Germany, France, or Finland)"
  german = "Estnisch (Deutschland, Frankreich oder Finnland)"
  assert render(sentence, "de") == german
  assert render(sentence, "zh") == "爱沙尼亚语 (德国、法国或芬兰)"
  everyone = (phrases.listed, "standard", *names)
  assert render(everyone, "cs") == "Německo, Francie a Finsko"


def test_every_plural_form_of_every_unit_is_in_the_language():
  durations = [f"duration-{name}" for name in phrases.DURATIONS]
  for language in LANGUAGES:
    for name in (*pools().units, *durations):
      for value in ("1", "2", "5", "21", "1.5", "10000"):
        number = render((phrases.number, Decimal(value)), language)
        text = render((phrases.unit, name, Decimal(value)), language)
        words = text.replace(number, "")
        assert any(c.isalpha() for c in words), (language, name, value)
        assert number in text


def test_pools_keep_what_all_languages_can_name():
  assert [len(pool) for pool in pools()] == [60, 40, 25, 30]
  assert named("currencies", "EUR QQQ CZK") == ("EUR", "CZK")
  # No language has a name for the first; a degree is but a sign in Chinese.
  units = "length-horse temperature-generic length-mile"
  assert named_units(units) == ("length-mile",)

"""What goes into a page is escaped, and pages need nothing but themselves."""

import html.parser
import re

from taskmoe_jax.pages import chart, markup

NASTY = "<script>alert('a & \"b\"')</script>"


class Shown(html.parser.HTMLParser):
  """What a browser would show, and the elements it would make."""

  def __init__(self, page):
    super().__init__()
    self.text, self.elements, self.attributes = "", [], []
    self.feed(page)

  def handle_starttag(self, tag, attrs):
    self.elements.append(tag)
    self.attributes += attrs

  def handle_data(self, data):
    self.text += data


def test_texts_are_escaped_once_everywhere():
  for made in (
    markup.element("p", NASTY),
    markup.element("p", markup.element("b", NASTY)),
    markup.joined([NASTY]),
    markup.table([NASTY], [], sortable=False),
    markup.sentence_table([], ["de"], [[NASTY]]),
    markup.marked(NASTY, ""),
    markup.marked(NASTY, NASTY),
  ):
    shown = Shown(made)
    assert "script" not in shown.elements
    assert shown.text == NASTY
  shown = Shown(markup.element("td", "x", data_key=NASTY, lang=None))
  assert shown.attributes == [("data-key", NASTY)]


def test_a_document_needs_nothing_else():
  page = markup.document(NASTY, markup.element("p", "hello"))
  assert Shown(page).elements.count("script") == 1
  assert not re.search(r"(src|href)=|@import|url\(|https?:", page)
  assert page.startswith("<!DOCTYPE html>\n")


def test_marks_what_the_reference_lacks():
  assert markup.marked("the red dog", "the dog") == ("the <mark>red </mark>dog")
  assert markup.marked("我要去", "我去") == "我<mark>要</mark>去"
  assert markup.marked("same", "same") == "same"
  assert markup.marked("", "lost") == ""


def test_a_sortable_table_has_keys():
  made = markup.table(["a"], [[("1.20", 1.204)], ["x"]], sortable=True)
  assert 'class="sortable"' in made
  assert ("data-key", "1.204") in Shown(made).attributes
  assert ("data-key", "x") in Shown(made).attributes


def test_sentences_have_language_and_direction():
  made = markup.sentence_table(["n", "s"], [None, "ar"], [["1", "x"]])
  assert "<td>1</td>" in made
  assert '<td lang="ar" dir="auto">x</td>' in made


def rectangles(svg):
  return [
    (float(x), float(width))
    for x, width in re.findall(
      r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)', svg
    )
  ]


def test_bars_are_as_long_as_their_values():
  svg = chart.bars(
    [
      chart.Bar("de-en", 40.0, 3.0, "40.0", "bar"),
      chart.Bar("<x>", 10.0, None, "10.0", "other"),
    ],
    title="BLEU & more",
  )
  (x1, long), (x2, short) = rectangles(svg)
  assert x1 == x2
  assert abs(long - 4 * short) < 0.5
  assert "&lt;x&gt;" in svg
  assert "<title>BLEU &amp; more</title>" in svg
  # The whisker of the first: one line along, two at its ends.
  assert svg.count('stroke="var(--ink)"') == 3


def test_bars_below_zero_go_left():
  svg = chart.bars(
    [
      chart.Bar("a", 1.0, None, "", "better"),
      chart.Bar("b", -2.0, None, "", "worse"),
    ],
    title="",
  )
  (right, one), (left, two) = rectangles(svg)
  assert abs(left + two - right) < 0.2
  assert abs(two - 2 * one) < 0.5


def test_bars_of_nothing_but_zero():
  svg = chart.bars([chart.Bar("a", 0.0, None, "0", "bar")], title="")
  assert rectangles(svg)

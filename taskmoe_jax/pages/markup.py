"""The parts of our HTML pages, each page one file that needs no other.

A `Html` is markup. Whatever else is put into a page is text, and is escaped:
translations hold `<`, `&` and quotes.
"""

import difflib
import html
import re
from collections.abc import Iterable, Sequence

# Chinese and Japanese are compared by characters, other writing by words.
_PIECE = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|\w+|\s+|[^\w\s]")

_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #656d76;
  --line: #d0d7de; --page: #fff; --shade: #f6f8fa; --bar: #2f6fb0;
  --other: #c2762b; --mark: #ffe9a8; --better: #1a7f37; --worse: #c0362c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8eb; --soft: #9aa4ae;
  --line: #39414a; --page: #14181d; --shade: #1d232a; --bar: #6ea8e0;
  --other: #e0a060; --mark: #5c4a12; --better: #57c474; --worse: #f0857b; } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink);
  background: var(--page); margin: 2rem auto; max-width: 72rem;
  padding: 0 1rem; }
h1 { font-size: 1.5rem; overflow-wrap: anywhere; } h2 { margin-top: 2.5rem; }
p.soft, .soft { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line);
  text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
th { position: sticky; top: 0; background: var(--shade); }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid var(--bar); }
th[aria-sort=ascending] button::after { content: " ▲"; }
th[aria-sort=descending] button::after { content: " ▼"; }
tbody tr:hover { background: var(--shade); }
table.text { width: 100%; table-layout: fixed; margin-bottom: 1rem; }
table.text th, table.text td { white-space: normal; text-align: start;
  vertical-align: top; overflow-wrap: anywhere; }
table.text th:first-child, table.text td:first-child { width: 4rem; }
mark { background: var(--mark); color: inherit; border-radius: 2px; }
details { border-bottom: 1px solid var(--line); padding: .25rem 0; }
summary { cursor: pointer; padding: .25rem 0; }
code, pre { font: 13px/1.4 ui-monospace, monospace; background: var(--shade); }
pre { padding: .75rem; overflow-x: auto; }
svg { display: block; max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.note { border-left: 4px solid var(--other); padding-left: .75rem; }
.panels { display: flex; flex-wrap: wrap; gap: 1rem 2rem; }
figure { margin: 0; max-width: 100%; overflow-x: auto; }
figcaption { color: var(--soft); }
.better { color: var(--better); } .worse { color: var(--worse); }
"""

_SCRIPT = """
for (const button of document.querySelectorAll("table.sortable th button"))
  button.addEventListener("click", () => {
    const th = button.parentElement, table = th.closest("table");
    const at = [...th.parentElement.children].indexOf(th);
    const key = row => row.children[at].dataset.key ?? "";
    const number = text => text !== "" && !isNaN(text);
    const up = th.getAttribute("aria-sort") === "descending";
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const order = number(x) && number(y) ? x - y : x.localeCompare(y);
      return up ? order : -order;
    });
    for (const other of th.parentElement.children)
      other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", up ? "ascending" : "descending");
    table.tBodies[0].append(...rows);
  });
"""


class Html(str):
  """Markup: goes into a page as it is."""

  __slots__ = ()


def escaped(value: object) -> Html:
  """Markup that shows a value; markup stays what it is."""
  return value if isinstance(value, Html) else Html(html.escape(str(value)))


def element(name: str, *children: object, **attributes: object) -> Html:
  """An element; a `class_` is written `class`, and `data_key` `data-key`."""
  written = "".join(
    f' {key.rstrip("_").replace("_", "-")}="{html.escape(str(value))}"'
    for key, value in attributes.items()
    if value is not None
  )
  inside = "".join(map(escaped, children))
  return Html(f"<{name}{written}>{inside}</{name}>")


def joined(parts: Iterable[object]) -> Html:
  return Html("\n".join(map(escaped, parts)))


def document(title: str, *body: object) -> str:
  """A whole page, with its style and its script in it."""
  return (
    '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    f"{element('title', title)}\n<style>{_STYLE}</style>\n</head>\n<body>\n"
    f"{element('h1', title)}\n{joined(body)}\n<script>{_SCRIPT}</script>\n"
    "</body>\n</html>\n"
  )


def table(
  columns: Sequence[str], rows: Iterable[Sequence[object]], *, sortable: bool
) -> Html:
  """A table; a cell is a text, markup, or `(what is shown, sort key)`."""
  heads = [
    element("th", element("button", name) if sortable else name, scope="col")
    for name in columns
  ]
  lines = []
  for row in rows:
    cells = []
    for cell in row:
      shown, key = cell if isinstance(cell, tuple) else (cell, cell)
      cells.append(element("td", shown, data_key=key if sortable else None))
    lines.append(element("tr", *cells))
  whole = element(
    "table",
    element("thead", element("tr", *heads)),
    element("tbody", *lines),
    class_="sortable" if sortable else None,
  )
  return element("div", whole, class_="wide")


def sentence_table(
  columns: Sequence[str],
  languages: Sequence[str | None],
  rows: Iterable[Sequence[object]],
) -> Html:
  """A table of sentences, each in its language and direction of writing."""
  return element(
    "table",
    element("thead", element("tr", *(element("th", c) for c in columns))),
    element(
      "tbody",
      *(
        element(
          "tr",
          *(
            element("td", cell, lang=language, dir=language and "auto")
            for cell, language in zip(row, languages, strict=True)
          ),
        )
        for row in rows
      ),
    ),
    class_="text",
  )


def marked(text: str, reference: str) -> Html:
  """A text in which everything is marked that its reference does not have."""
  pieces, expected = _PIECE.findall(text), _PIECE.findall(reference)
  matcher = difflib.SequenceMatcher(None, expected, pieces, autojunk=False)
  parts = []
  for kind, _, _, begin, end in matcher.get_opcodes():
    found = "".join(pieces[begin:end])
    if kind == "equal" or not found.strip():
      parts.append(escaped(found))
    elif found:
      parts.append(element("mark", found))
  return Html("".join(parts))

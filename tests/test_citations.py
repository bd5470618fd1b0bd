"""No file of the repository cites a page, or a place in one, that is not there.

A page is cited by its path from the top of the repository (`docs/pods.md`), or
from the folder of the file that cites it.
"""

import pathlib
import re
import subprocess

ROOT = pathlib.Path(__file__).parent.parent

# Not where a path is put together: `ROOT / "docs" / "pods.md"`.
PAGE = re.compile(r"""(?<!/ ")(?<![\w./*-])[\w./*-]*\w\.md\b""")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
# Written by our commands, beside what they describe.
WRITTEN = {"results.md"}
# Makes up pages on purpose.
EXEMPT = {"tests/test_citations.py"}


def _texts() -> dict[str, str]:
  """All files that git knows or would add, those of text only."""
  listed = subprocess.run(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
    cwd=ROOT,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  ).stdout.splitlines()
  texts = {}
  for name in sorted(set(listed) - EXEMPT):
    path = ROOT / name
    if path.is_file() and (data := path.read_bytes()) and b"\0" not in data:
      texts[name] = data.decode(errors="replace")
  return texts


def _anchor(heading: str) -> str:
  """As GitHub makes it."""
  heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
  return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _anchors(text: str) -> set[str]:
  return {_anchor(match) for match in HEADING.findall(CODE.sub("", text))}


def missing_pages(name: str, text: str, pages: set[str]) -> set[str]:
  """Pages that a file cites, other than by a link, and that are not there."""
  if name.endswith(".md"):
    text = LINK.sub("", text)
  return {
    cited
    for cited in PAGE.findall(text)
    if "*" not in cited
    and cited.rpartition("/")[2] not in WRITTEN
    and not {cited, _resolved(name, cited)} & pages
  }


def broken_links(
  name: str, text: str, texts: dict[str, str], folders: set[str]
) -> set[str]:
  """Relative links of a page that lead nowhere, anchors included."""
  broken = set()
  for link in LINK.findall(CODE.sub("", text)):
    if re.match(r"[a-z]+:", link):
      continue
    path, _, anchor = link.partition("#")
    target = _resolved(name, path) if path else name
    if target in folders and not anchor:
      continue
    if target not in texts or (
      anchor and anchor not in _anchors(texts[target])
    ):
      broken.add(link)
  return broken


def _resolved(name: str, link: str) -> str:
  parts = list(pathlib.PurePosixPath(name).parent.parts)
  for part in pathlib.PurePosixPath(link).parts:
    if part == "..":
      if not parts:
        return link  # above the repository
      parts.pop()
    else:
      parts.append(part)
  return "/".join(parts)


def _folders(texts: dict[str, str]) -> set[str]:
  return {
    str(parent)
    for name in texts
    for parent in pathlib.PurePosixPath(name).parents
  }


def test_pages_that_are_cited_exist():
  texts = _texts()
  pages = {name for name in texts if name.endswith(".md")}
  found = {
    name: missing
    for name, text in texts.items()
    if (missing := missing_pages(name, text, pages))
  }
  assert found == {}


def test_links_lead_somewhere():
  texts = _texts()
  folders = _folders(texts)
  found = {
    name: broken
    for name, text in texts.items()
    if name.endswith(".md")
    and (broken := broken_links(name, text, texts, folders))
  }
  assert found == {}


def test_every_page_of_docs_is_in_its_index():
  index = (ROOT / "docs" / "README.md").read_text()
  linked = {link.partition("#")[0] for link in LINK.findall(index)}
  pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
  assert pages - linked == set()


def test_what_is_not_there_is_found():
  pages = {"docs/pods.md", "docs/design/style.md", "README.md"}
  text = (
    "See docs/pods.md, pods.md, DESIGN.md (docs/desing/style.md), docs/*.md and"
    ' ROOT / "docs" / "here.md".'
  )
  assert missing_pages("taskmoe_jax/a.py", text, pages) == {
    "pods.md",
    "DESIGN.md",
    "docs/desing/style.md",
  }
  assert missing_pages("docs/text.md", "pods.md, ../README.md", pages) == set()

  texts = {
    "docs/pods.md": "# What it costs\n\n## `a`, and [b](c.md)\n",
    "docs/text.md": "",
  }
  text = (
    "[a](pods.md) [b](pods.md#what-it-costs) [c](pods.md#a-and-b)"
    " [d](../docs) [e](https://x.y/z.md) [f](pod.md) [g](pods.md#costs)"
    " [h](#here) [i](../../above.md)\n```\n[j](code.md)\n```\n"
  )
  found = broken_links("docs/text.md", text, texts, _folders(texts))
  assert found == {"pod.md", "pods.md#costs", "#here", "../../above.md"}

"""No module of the package imports itself by way of others."""

import ast
import pathlib
from collections.abc import Mapping, Set

import pytest

ROOT = pathlib.Path(__file__).parent.parent


def imported(source: str, modules: Set[str]) -> set[str]:
  """The modules among these that a source imports, wherever the import is.

  An import inside a function counts too: it would only hide the circle.
  """
  names = set()
  for node in ast.walk(ast.parse(source)):
    match node:
      case ast.Import():
        names |= {alias.name for alias in node.names}
      case ast.ImportFrom():
        for alias in node.names:
          inner = f"{node.module}.{alias.name}"
          names.add(inner if inner in modules else str(node.module))
  return names & modules


def circles(graph: Mapping[str, Set[str]]) -> list[list[str]]:
  """The largest sets of modules that all reach one another, in order."""
  reached = {name: _reached(graph, name) for name in graph}
  found = {
    frozenset(other for other in reached[name] if name in reached[other])
    for name in graph
    if name in reached[name]
  }
  return sorted(sorted(members) for members in found)


def _reached(graph: Mapping[str, Set[str]], start: str) -> set[str]:
  """What a module imports, directly or through what it imports."""
  found: set[str] = set()
  ahead = list(graph[start])
  while ahead:
    name = ahead.pop()
    if name not in found:
      found.add(name)
      ahead += graph[name]
  return found


def _sources() -> dict[str, str]:
  """The text of every module of the package, `tasks/` as it is installed."""
  paths = {
    path.relative_to(ROOT): path
    for path in (ROOT / "taskmoe_jax").rglob("*.py")
  }
  for path in (ROOT / "tasks").rglob("*.py"):
    paths[pathlib.Path("taskmoe_jax") / path.relative_to(ROOT)] = path
  return {
    ".".join(name.with_suffix("").parts).removesuffix(
      ".__init__"
    ): path.read_text()
    for name, path in paths.items()
  }


def test_no_module_imports_itself_by_way_of_others():
  sources = _sources()
  assert {"taskmoe_jax.data.opening", "taskmoe_jax.tasks.tsv"} <= sources.keys()
  graph = {
    name: imported(text, sources.keys()) for name, text in sources.items()
  }
  assert circles(graph) == []


@pytest.mark.parametrize(
  ("graph", "expected"),
  [
    ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
    ({"a": {"b"}, "b": {"a"}, "c": {"a"}}, [["a", "b"]]),
    (
      {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"d"}},
      [["a", "b", "c"], ["d"]],
    ),
  ],
)
def test_the_check_itself(graph, expected):
  assert circles(graph) == expected


@pytest.mark.parametrize(
  ("source", "expected"),
  [
    ("import p.a", {"p.a"}),
    ("from p import a", {"p.a"}),
    ("from p.a import name", {"p.a"}),
    ("from p import load", {"p"}),
    ("def f():\n  from p.a import name", {"p.a"}),
    ("import numpy", set()),
  ],
)
def test_imports_inside_functions_count(source, expected):
  assert imported(source, {"p", "p.a"}) == expected

"""House rules that no tool checks for us (docs/design/style.md)."""

import ast
import collections
import pathlib
import re

ROOT = pathlib.Path(__file__).parent.parent
SOURCES = [
  path
  for folder in ("taskmoe_jax", "tasks", "tests", "benchmarks")
  for path in sorted((ROOT / folder).rglob("*.py"))
]

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_FILES_IN_A_FOLDER = 20
# Longer on purpose: "path" or "path:function", each with its reason.
LONG_FILES = set()
LONG_FUNCTIONS = set()

VAGUE_NAME = re.compile(r"(^|_)(utils?|helpers?|managers?|cfg)(_|$)")
UNFINISHED = re.compile(r"\b(TODO|FIXME)\b")


def _name(path: pathlib.Path) -> str:
  return str(path.relative_to(ROOT))


def test_gin_folder_is_no_package():
  """Any Python in gin/ could make `import gin` find it, not gin-config."""
  assert list((ROOT / "gin").rglob("*.py")) == []


def test_files_are_short():
  long = {
    _name(path)
    for path in SOURCES
    if len(path.read_text().splitlines()) > MAX_FILE_LINES
  }
  assert long == LONG_FILES


def test_folders_are_small():
  """A room that a stranger can take in at a glance."""
  files = collections.Counter(path.parent for path in SOURCES)
  assert [
    _name(folder)
    for folder, number in files.items()
    if number > MAX_FILES_IN_A_FOLDER
  ] == []


def test_functions_are_short():
  long = {
    f"{_name(path)}:{node.name}"
    for path in SOURCES
    for node in ast.walk(ast.parse(path.read_text()))
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
  }
  assert long == LONG_FUNCTIONS


def test_modules_are_named_for_what_they_hold():
  assert [_name(p) for p in SOURCES if VAGUE_NAME.search(p.stem)] == []


# What fails a test, by its name: `np.testing.assert_allclose` is one of them.
CHECK = re.compile(r"assert_\w+|raises|warns|fail")


def _definitions(tree: ast.Module) -> dict[str, list[ast.AST]]:
  """Functions and classes of a file, at any depth, by their names."""
  found = collections.defaultdict(list)
  for node in ast.walk(tree):
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
      found[node.name].append(node)
  return found


def _checks(node: ast.AST, known: dict[str, list[ast.AST]]) -> bool:
  """Whether a function asserts, or names one that does, or that one one."""
  seen, waiting = set(), [node]
  while waiting:
    for part in ast.walk(waiting.pop()):
      match part:
        case ast.Assert():
          return True
        case ast.Name(id=name) | ast.Attribute(attr=name) if CHECK.fullmatch(
          name
        ):
          return True
        case ast.Call(func=ast.Name(id=name)) if name not in seen:
          seen.add(name)
          waiting.extend(known.get(name, ()))
  return False


def test_tests_assert():
  """Themselves, or by a function or fixture that they call."""
  trees = {
    path: ast.parse(path.read_text())
    for path in SOURCES
    if path.is_relative_to(ROOT / "tests")
  }
  of_folder = {
    path.parent: _definitions(tree)
    for path, tree in trees.items()
    if path.name == "conftest.py"
  }
  shared = {
    name: nodes
    for path, tree in trees.items()
    if not path.name.startswith("test_") and path.name != "conftest.py"
    for name, nodes in _definitions(tree).items()
  }
  silent = []
  for path, tree in trees.items():
    known = dict(shared)
    for folder in reversed(path.parents):
      known |= of_folder.get(folder, {})
    known |= _definitions(tree)
    silent += [
      f"{_name(path)}:{node.name}"
      for node in tree.body
      if isinstance(node, ast.FunctionDef)
      and node.name.startswith("test_")
      and not _checks(node, known)
    ]
  assert silent == []


def test_nothing_is_left_unfinished():
  this_file = pathlib.Path(__file__)
  assert [
    _name(path)
    for path in SOURCES
    if path != this_file and UNFINISHED.search(path.read_text())
  ] == []


def test_the_package_does_not_decorate_for_gin():
  """Recipes name what they configure (gin's dynamic registration)."""
  assert [
    _name(path)
    for path in SOURCES
    if re.search(r"^\s*@gin\.", path.read_text(), re.MULTILINE)
  ] == []

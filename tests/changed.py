"""Names the tests of what changed since main, for `make changed`.

They mirror the rooms of the changed modules, and the rooms of those that import
them. What changed is what differs from where this branch left main, and what
git does not know yet.
"""

import ast
import pathlib
import subprocess
import sys
from collections.abc import Iterable

# What is not Python, and which tests read it.
READERS = {
  "gin": ("tests/config",),
  "docs": ("tests/test_docs.py", "tests/test_citations.py"),
  "README.md": ("tests/test_docs.py", "tests/test_citations.py"),
  "launch": ("tests/launch",),
  "setup.py": ("tests/test_wheel.py",),
  "pyproject.toml": ("tests",),
}
# Rules that hold of all Python files.
HOUSE = ("tests/test_floors.py", "tests/test_house.py")


def changed_files(root: pathlib.Path) -> list[str]:
  """Paths below `root` that differ from main, or from HEAD without a main."""

  def git(*arguments: str) -> list[str]:
    return subprocess.run(
      ("git", *arguments), cwd=root, check=True, capture_output=True, text=True
    ).stdout.splitlines()

  base = "HEAD"
  if git("branch", "--list", "main"):
    (base,) = git("merge-base", "main", "HEAD")
  # A file that was moved is one that went and one that came.
  changed = git("diff", "--name-only", "--no-renames", base)
  return sorted({*changed, *git("ls-files", "--others", "--exclude-standard")})


def _module(path: pathlib.PurePath) -> str:
  """The name by which a file is imported; tasks/ is a part of the package."""
  parts = path.with_suffix("").parts
  if parts[0] == "tasks":
    parts = ("taskmoe_jax", *parts)
  return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(text: str) -> set[str]:
  """All that may be a module's name, wherever in the file it is imported."""
  found = set()
  for node in ast.walk(ast.parse(text)):
    if isinstance(node, ast.Import):
      found |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module:
      found.add(node.module)
      found |= {f"{node.module}.{alias.name}" for alias in node.names}
  return found


def _python_files(root: pathlib.Path) -> list[pathlib.PurePath]:
  return [
    path.relative_to(root)
    for folder in ("taskmoe_jax", "tasks", "benchmarks", "tests")
    for path in sorted((root / folder).rglob("*.py"))
  ]


def _mirrored(path: pathlib.PurePath, root: pathlib.Path) -> set[str]:
  """Tests of a file's room: its folder's, not those of folders below it."""
  if path.parts[0] == "tests":
    if path == pathlib.PurePath("tests/conftest.py"):
      return {"tests"}
    if path.name == "conftest.py":
      return {str(path.parent)}
    return {str(path)} if path.name.startswith("test_") else set()
  inside = path.parent.parts
  if inside[0] == "taskmoe_jax":
    inside = inside[1:]
  if inside:
    tests = root.joinpath("tests", *inside).glob("test_*.py")
  else:
    tests = [root / "tests" / f"test_{path.name}"]
  return {str(test.relative_to(root)) for test in tests}


def mirrored_tests(changed: Iterable[str], root: pathlib.Path) -> list[str]:
  """What to give to pytest for these changed files; nothing for none."""
  paths = [pathlib.PurePath(name) for name in changed]
  tests = set()
  for path in paths:
    for key in (path.parts[0], path.name):
      tests.update(READERS.get(key, ()))
  python = [path for path in paths if path.suffix == ".py"]
  modules = {_module(path) for path in python if len(path.parts) > 1}
  if modules:
    tests.update(HOUSE)
    for path in _python_files(root):
      if path in python or _imports((root / path).read_text()) & modules:
        tests |= _mirrored(path, root)
  # Of a module that is gone no file is left to look at.
  for path in python:
    if len(path.parts) > 1 and not (root / path).exists():
      tests |= _mirrored(path, root)
  folders = {test for test in tests if not test.endswith(".py")}
  return sorted(
    test
    for test in tests
    if (root / test).exists()
    and not any(
      str(parent) in folders for parent in pathlib.PurePath(test).parents
    )
  )


if __name__ == "__main__":
  here = pathlib.Path(__file__).parent.parent
  files = changed_files(here)
  print(f"{len(files)} files changed", file=sys.stderr)
  print(" ".join(mirrored_tests(files, here)))

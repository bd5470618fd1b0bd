"""Imports go down the floors of the house only (README.md)."""

import ast
import json
import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest

ROOT = pathlib.Path(__file__).parent.parent

FLOORS = {
  "axes": 0,
  "files": 0,
  "hosts": 0,
  "pages": 0,
  "errors": 0,
  "task_space": 0,
  "vocabulary": 0,
  "partitioning": 0,
  "layers": 1,
  "moe": 1,
  "data": 1,
  # The folder tasks/ at the top: seqio tasks, made with what data offers.
  "tasks": 1.5,
  "models": 2,
  "decoding": 2,
  # What a run directory and a bundle are, for all that follows.
  "runs": 2.3,
  "bundles": 2.5,
  "train": 3,
  "planning": 3.5,
  "evaluate": 4,
  "export": 4.2,
  # Rooms within export, and the jobs that go through them.
  "export.formats": 4.3,
  "export.pruning": 4.3,
  "export.shrinking": 4.3,
  "export.exporting": 4.6,
  "export.full_model": 4.6,
  "report": 4.8,
  "config": 5,
  "cli": 6,
  # taskmoe_jax/__init__.py offers `load` and may reach everything; nothing
  # may reach back to it.
  "__init__": 7,
}
# On one floor, and yet not to import each other.
APART = [
  {"data", "layers"},
  {"data", "moe"},
  # Who reads what training wrote does not need the trainer.
  {"train", "evaluate"},
  {"train", "export"},
  {"train", "export.formats"},
  {"train", "export.pruning"},
  {"train", "export.shrinking"},
  {"train", "export.exporting"},
  {"train", "export.full_model"},
  {"train", "report"},
  {"export.formats", "export.pruning"},
  {"export.formats", "export.shrinking"},
  {"export.pruning", "export.shrinking"},
]
# Who may import what is heavy or global.
ONLY_IN = {
  "tensorflow": {"data", "tasks"},
  "tensorflow_datasets": {"data", "tasks"},
  "tensorflow_text": {"data", "tasks"},
  "seqio": {"data", "tasks"},
  "gin": {"config", "cli"},
}
# What gin/mixtures/ import.
MIXTURES = "".join(
  path.read_text() for path in (ROOT / "gin" / "mixtures").glob("*.gin")
)
# Rooms that load TensorFlow, to read a seqio mixture, or gin. All others must
# not: training from a cache needs no TensorFlow.
WITH_TENSORFLOW = {"data", "tasks", "config", "cli"}


def violations(room: str, source: str) -> list[str]:
  """What a room's source imports but must not, wherever the import stands.

  An import inside a function counts too: it would only hide the dependency.
  """
  found = []
  for node in ast.walk(ast.parse(source)):
    match node:
      case ast.Import():
        names = [alias.name for alias in node.names]
      case ast.ImportFrom(level=0):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
      case ast.ImportFrom():
        found.append(f"line {node.lineno}: relative import; write it in full")
        continue
      case _:
        continue
    reasons = {reason for name in names if (reason := _reason(room, name))}
    found += [f"line {node.lineno}: {reason}" for reason in sorted(reasons)]
  return found


def _reason(room: str, name: str) -> str | None:
  package, *inside = name.split(".")
  if room.split(".")[0] not in ONLY_IN.get(package, {room.split(".")[0]}):
    return f"{room} imports {package}"
  if package == "tasks":
    return "tasks is installed as taskmoe_jax.tasks"
  if package != "taskmoe_jax" or not inside:
    return None  # `import taskmoe_jax` alone asks where the package lies.
  other = _room(inside) or "__init__"
  if FLOORS[other] > FLOORS[room]:
    return f"{room} imports {other}, which is above it"
  if {room, other} in APART:
    return f"{room} imports {other}, which stands apart from it"
  return None


def _room(inside: Sequence[str]) -> str | None:
  """The innermost room that has a floor: export.formats, not export."""
  names = [".".join(inside[:depth]) for depth in (2, 1)]
  return next((name for name in names if name in FLOORS), None)


def _rooms() -> list[tuple[str, pathlib.Path]]:
  package = ROOT / "taskmoe_jax"
  rooms = []
  for path in sorted(package.rglob("*.py")):
    inside = path.relative_to(package).with_suffix("").parts
    rooms.append((_room(inside) or inside[0], path))
  return rooms + [("tasks", path) for path in sorted(ROOT.glob("tasks/*.py"))]


def test_every_room_has_a_floor():
  assert {room for room, _ in _rooms()} - FLOORS.keys() == set()


@pytest.mark.slow
def test_imports_go_down_only():
  found = [
    f"{path.relative_to(ROOT)}, {violation}"
    for room, path in _rooms()
    for violation in violations(room, path.read_text())
  ]
  assert found == []


@pytest.mark.parametrize(
  ("room", "source", "expected"),
  [
    ("moe", "from taskmoe_jax.layers import attention", None),
    ("train", "import jax\nfrom taskmoe_jax.models import losses", None),
    ("tasks", "import seqio\nimport taskmoe_jax.data.batches.rows", None),
    ("cli", "import gin", None),
    ("config", "import taskmoe_jax", None),
    ("export", "from taskmoe_jax import errors, evaluate", None),
    (
      "evaluate",
      "from taskmoe_jax.export import extract",
      "line 1: evaluate imports export, which is above it",
    ),
    (
      "report",
      "from taskmoe_jax.train.metrics import metric_sums",
      "line 1: report imports train, which stands apart from it",
    ),
    ("__init__", "def load():\n  from taskmoe_jax.export import x", None),
    (
      "layers",
      "import jax\nfrom taskmoe_jax.models import losses",
      "line 2: layers imports models, which is above it",
    ),
    (
      "data",
      "from taskmoe_jax import tasks",
      "line 1: data imports tasks, which is above it",
    ),
    (
      "errors",
      "import taskmoe_jax.axes, taskmoe_jax.moe.routing",
      "line 1: errors imports moe, which is above it",
    ),
    (
      "config",
      "from taskmoe_jax import load",
      "line 1: config imports __init__, which is above it",
    ),
    (
      "data",
      "from taskmoe_jax.moe.routing import Router",
      "line 1: data imports moe, which stands apart from it",
    ),
    (
      "layers",
      "import taskmoe_jax.data",
      "line 1: layers imports data, which stands apart from it",
    ),
    (
      "models",
      "def step():\n  import tensorflow.compat.v2 as tf",
      "line 2: models imports tensorflow",
    ),
    ("train", "from seqio import Task", "line 1: train imports seqio"),
    ("moe", "from gin import query", "line 1: moe imports gin"),
    (
      "config",
      "from tasks import cldr",
      "line 1: tasks is installed as taskmoe_jax.tasks",
    ),
    ("moe", "from . import x", "line 1: relative import; write it in full"),
    ("export.formats", "from taskmoe_jax.export import verify", None),
    (
      "export.full_model",
      "from taskmoe_jax.export.shrinking import shrink",
      None,
    ),
    (
      "export",
      "from taskmoe_jax.export import formats",
      "line 1: export imports export.formats, which is above it",
    ),
    (
      "export.pruning",
      "import taskmoe_jax.export.shrinking.shrink",
      "line 1: export.pruning imports export.shrinking, which stands apart from"
      " it",
    ),
    (
      "export.formats",
      "import gin",
      "line 1: export.formats imports gin",
    ),
  ],
)
def test_the_check_itself(room, source, expected):
  assert violations(room, source) == ([expected] if expected else [])


IMPORT_ALL = """
import importlib, json, pkgutil, sys
import taskmoe_jax

imported = []
for room in pkgutil.iter_modules(taskmoe_jax.__path__):
  if room.name not in sys.argv[1].split():
    module = importlib.import_module("taskmoe_jax." + room.name)
    path = getattr(module, "__path__", ())
    for below in pkgutil.walk_packages(path, module.__name__ + "."):
      importlib.import_module(below.name)
      imported.append(below.name)
print(json.dumps([imported, sorted(sys.modules)]))
"""


@pytest.mark.expensive("it compiles models")
def test_models_decoding_and_export_load_no_tensorflow():
  run = subprocess.run(
    [sys.executable, "-c", IMPORT_ALL, " ".join(WITH_TENSORFLOW)],
    cwd=ROOT,
    check=True,
    stdout=subprocess.PIPE,
  )
  imported, loaded = json.loads(run.stdout)
  rooms = {name.split(".")[1] for name in imported}
  assert {"models", "decoding", "export", "train", "evaluate"} <= rooms
  assert {"tensorflow", "seqio", "gin"} & set(loaded) == set()


@pytest.mark.slow
def test_naming_a_mixture_loads_no_tensorflow():
  """A cache may stand in for it, and gin imports what a recipe names."""
  names = [
    f"taskmoe_jax.tasks.{path.stem}"
    for path in sorted((ROOT / "tasks").glob("*.py"))
    if f"tasks import {path.stem}" in MIXTURES
  ]
  assert len(names) == 5
  code = (
    "import importlib, sys\n"
    f"for name in {names}: importlib.import_module(name)\n"
    "print(*{'tensorflow', 'tensorflow_datasets', 'seqio'} & set(sys.modules))"
  )
  run = subprocess.run(
    [sys.executable, "-c", code],
    cwd=ROOT,
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  assert run.stdout.split() == []

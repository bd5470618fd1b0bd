"""What loading a bundle imports; in a fresh process, as servers do it."""

import json
import pathlib
import subprocess
import sys

import pytest

OLD = pathlib.Path(__file__).parents[1] / "golden" / "old"
CODE = """
import json, sys
import taskmoe_jax

before = sorted(sys.modules)
found = taskmoe_jax.load(sys.argv[1]).translate(json.loads(sys.argv[2]))
print(json.dumps([before, found, sorted(sys.modules)]))
"""


@pytest.mark.slow
def test_loading_and_translating_import_nothing_that_trains():
  expected = json.loads((OLD / "translations.json").read_text())
  sources = json.dumps(expected["sources"])
  run = subprocess.run(
    [sys.executable, "-c", CODE, str(OLD / "bundle"), sources],
    check=True,
    stdout=subprocess.PIPE,
  )
  imported, found, loaded = json.loads(run.stdout)
  assert "jax" not in imported
  assert found == expected["bundle"]
  assert "jax" in loaded
  heavy = {"orbax", "tensorstore", "optax", "tensorflow", "seqio", "gin"}
  assert heavy & {name.partition(".")[0] for name in loaded} == set()
  rooms = {".".join(n.split(".")[:2]) for n in loaded if "taskmoe_jax." in n}
  above = ("train", "runs", "export", "evaluate", "config", "cli", "report")
  assert rooms & {f"taskmoe_jax.{room}" for room in above} == set()

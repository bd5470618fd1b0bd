"""The wheel carries recipes and tasks, and runs away from the repository."""

import ast
import email.message
import email.parser
import importlib.metadata
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import zipfile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import taskmoe_jax

ROOT = pathlib.Path(__file__).parent.parent


def _pip(*arguments: object) -> None:
  quiet = [sys.executable, "-m", "pip", "-qq", *map(str, arguments)]
  subprocess.run(quiet, check=True)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
  """Built offline, from a copy: setuptools leaves `build/` where it builds."""
  source = tmp_path_factory.mktemp("source")
  for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
    shutil.copy(ROOT / name, source)
  for name in ("taskmoe_jax", "tasks", "gin"):
    shutil.copytree(ROOT / name, source / name)
  offline = ("--no-index", "--no-deps", "--no-build-isolation")
  folder = tmp_path_factory.mktemp("wheel")
  _pip("wheel", *offline, "--wheel-dir", folder, source)
  (wheel,) = folder.iterdir()
  return wheel


@pytest.fixture(scope="module")
def metadata(wheel) -> email.message.Message:
  with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith("/METADATA"))
    return email.parser.BytesParser().parsebytes(archive.read(name))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
  """The `bin` of an environment that holds the wheel and sees our libraries.

  Its .pth adds them as a plain path: the editable install among them stays
  without effect, so that what the wheel lacks is not found in the repository.
  """
  folder = tmp_path_factory.mktemp("venv")
  make = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
  subprocess.run(make, check=True)
  python = folder / "bin" / "python"
  _pip("--python", python, "install", "--no-index", "--no-deps", wheel)
  (site,) = folder.glob("lib/python*/site-packages")
  (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
  return folder / "bin"


def _run(*command: object, folder: pathlib.Path) -> str:
  """Runs as a user would: on one device, with nothing on the path."""
  ours = {"PYTHONPATH", "XLA_FLAGS"}
  environment = {k: v for k, v in os.environ.items() if k not in ours}
  run = subprocess.run(
    [str(part) for part in command],
    cwd=folder,
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert run.returncode == 0, run.stdout
  return run.stdout


@pytest.mark.slow
def test_wheel_holds_the_package_the_recipes_and_the_tasks(wheel):
  def files(folder: str, pattern: str) -> set[str]:
    paths = (ROOT / folder).rglob(pattern)
    return {path.relative_to(ROOT).as_posix() for path in paths}

  expected = files("taskmoe_jax", "*.py") | {
    f"taskmoe_jax/{name}"
    for name in files("tasks", "*.py") | files("gin", "*.gin")
  }
  assert "taskmoe_jax/gin/recipes/demo.gin" in expected
  # Type checkers read the annotations of a package that has it.
  expected.add("taskmoe_jax/py.typed")
  with zipfile.ZipFile(wheel) as archive:
    held = {name for name in archive.namelist() if ".dist-info/" not in name}
  assert held == expected


@pytest.mark.slow
def test_wheel_says_what_it_is(wheel, metadata):
  assert metadata["Version"] == taskmoe_jax.__version__
  assert metadata["License-Expression"] == "Apache-2.0"
  assert metadata["License-File"] == "LICENSE"
  assert metadata["Description-Content-Type"] == "text/markdown"
  assert metadata.get_payload().startswith("# taskmoe_jax\n")
  with zipfile.ZipFile(wheel) as archive:
    (name,) = (n for n in archive.namelist() if n.endswith("/LICENSE"))
    assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_every_dependency_is_bounded_on_both_sides(metadata):
  assert SpecifierSet(metadata["Requires-Python"]) == SpecifierSet(
    ">=3.11,<3.14"
  )
  assert set(metadata.get_all("Provides-Extra")) == {
    "tpu",
    "cuda",
    "export",
    "test",
    "t5x",
  }
  for text in metadata.get_all("Requires-Dist"):
    requirement = Requirement(text)
    bounds = sorted(bound.operator for bound in requirement.specifier)
    assert bounds == ["<", ">="] or requirement.name == "t5x", text


@pytest.mark.slow
def test_every_import_is_a_declared_dependency(metadata):
  """A library that only comes along with another one may go with it."""
  requirements = map(Requirement, metadata.get_all("Requires-Dist"))
  # Export writes formats of engines that are an extra.
  declared = {
    requirement.name.lower()
    for requirement in requirements
    if requirement.marker is None or 'extra == "export"' in str(requirement)
  }
  owners = importlib.metadata.packages_distributions()
  undeclared = {
    f"{path.relative_to(ROOT)} imports {name}"
    for folder in ("taskmoe_jax", "tasks")
    for path in (ROOT / folder).rglob("*.py")
    for name in _imported(path) - sys.stdlib_module_names - {"taskmoe_jax"}
    if not {owner.lower() for owner in owners.get(name, [])} & declared
  }
  assert undeclared == set()


def _imported(path: pathlib.Path) -> set[str]:
  """The first words of all modules that a file imports."""
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      names.append(node.module or "")
  return {name.partition(".")[0] for name in names}


@pytest.mark.slow
def test_installed_package_comes_from_the_wheel(installed, tmp_path):
  program = (
    "import taskmoe_jax, taskmoe_jax.tasks;"
    "print(*taskmoe_jax.__path__, *taskmoe_jax.tasks.__path__)"
  )
  paths = _run(installed / "python", "-c", program, folder=tmp_path).split()
  (site,) = installed.parent.glob("lib/python*/site-packages")
  assert paths == [str(site / "taskmoe_jax"), str(site / "taskmoe_jax/tasks")]


@pytest.mark.expensive("it installs the package, and trains with it")
def test_installed_taskmoe_trains_a_recipe_from_any_folder(installed, tmp_path):
  taskmoe = installed / "taskmoe"
  recipe = "--gin_file=recipes/demo.gin"
  run_dir = f"--gin.RUN_DIR={tmp_path / 'run'}"
  _run(taskmoe, "vocab", recipe, run_dir, folder=tmp_path)
  short = ("--gin.TRAIN_STEPS=2", "--gin.BATCH_SIZE=16")
  _run(taskmoe, "train", recipe, run_dir, *short, folder=tmp_path)
  assert (tmp_path / "run" / "metrics.jsonl").is_file()

"""What the pages tell people to type exists."""

import argparse
import importlib
import pathlib
import re

import pytest

from taskmoe_jax.cli.commands import COMMANDS

ROOT = pathlib.Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
GIN = "\n".join(path.read_text() for path in (ROOT / "gin").rglob("*.gin"))
SOURCES = [
  path.read_text()
  for folder in ("taskmoe_jax", "tests")
  for path in (ROOT / folder).rglob("*.py")
]

# `NAME`, `NAME=value`, `--gin.NAME` in backticks, or --gin.NAME in a command.
MACRO = re.compile(r"(?:`|--gin\.)([A-Z][A-Z_0-9]{2,})(?=[`=\s])")
PARAMETER = re.compile(r"--gin\.(?:[a-z_]+/)?([a-z_]+(?:\.\w+)+)")
COMMAND = re.compile(r"^taskmoe ([a-z]+)((?:.*\\\n)*.*)", re.MULTILINE)
CONSTANT = re.compile(r"^([A-Z][A-Z_0-9]+) = ", re.MULTILINE)
# Of shells, of JAX, and of the errors of others.
NO_MACROS = re.compile(
  r"JAX_|PYTHONPATH|OMP_|SIG|UPDATE_GOLDEN|RESOURCE_|WAITING_|PROVISIONING|ACTIVE"
)


def _macros(text: str) -> set[str]:
  return {name for name in MACRO.findall(text) if not NO_MACROS.match(name)}


def _undefined(text: str) -> set[str]:
  """Those that are neither macros nor constants of our modules."""
  defined = {*CONSTANT.findall(GIN), *re.findall(r"%([A-Z_]+)", GIN)}
  return _macros(text) - defined.union(*map(CONSTANT.findall, SOURCES))


def _unknown_parameters(text: str) -> set[str]:
  """Those of which no file has both the owner and the name."""
  unknown = set()
  for path in PARAMETER.findall(text):
    owner, name = path.split(".")[-2:]
    defined = re.compile(rf"^(class|def) {owner}\b", re.MULTILINE)
    argument = re.compile(rf"^\s+{name}:", re.MULTILINE)
    if not any(
      defined.search(source) and argument.search(source) for source in SOURCES
    ):
      unknown.add(path)
  return unknown


def _flags(command: str) -> set[str]:
  module = importlib.import_module(f"taskmoe_jax.cli.commands.{command}")
  parser = argparse.ArgumentParser()
  module.add_arguments(parser)
  return {*parser._option_string_actions, "--traceback"}


def _unknown_flags(text: str) -> set[str]:
  unknown = set()
  for command, rest in COMMAND.findall(text):
    if command not in COMMANDS:
      unknown.add(command)
      continue
    given = re.findall(r"(?<=\s)(--(?!gin\.)[a-z_]+)", rest.partition("#")[0])
    unknown |= {f"{command} {flag}" for flag in set(given) - _flags(command)}
  return unknown


@pytest.mark.parametrize(
  "page", PAGES, ids=lambda path: str(path.relative_to(ROOT))
)
def test_macros_parameters_and_flags_exist(page):
  text = page.read_text()
  assert _undefined(text) == set()
  assert _unknown_parameters(text) == set()
  assert _unknown_flags(text) == set()


def test_what_does_not_exist_is_found():
  text = "`BATCH_SICE`, or\ntaskmoe train --gin_fil=a \\\n  --gin.SEDE=1"
  assert _undefined(text) == {"BATCH_SICE", "SEDE"}
  assert _unknown_flags(text) == {"train --gin_fil"}
  assert _unknown_parameters("--gin.moe.MoeConfig.jiter=1") == {
    "moe.MoeConfig.jiter"
  }


def test_every_setting_of_training_is_described():
  recipe = (ROOT / "gin" / "runs" / "train.gin").read_text()
  settings = set(re.findall(r"^([A-Z_]+) = ", recipe, re.MULTILINE))
  page = (ROOT / "docs" / "training.md").read_text()
  assert settings - _macros(page) == set()

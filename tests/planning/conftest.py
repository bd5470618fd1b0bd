"""The small recipe on the eight devices there are."""

import argparse

import pytest

from taskmoe_jax.partitioning.meshes import make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from tests.train.conftest import (  # noqa: F401
  model_config,
  monitoring,
  space,
)


@pytest.fixture
def planned(small_recipe):
  """Builds a plan of the small recipe, with a mesh and further overrides."""
  from taskmoe_jax.cli.commands.precompile import settings_of

  def make(*flags, pairs=("en-de", "de-en", "en-fr"), slices=1):
    args = argparse.Namespace(pairs=pairs, slices=slices)
    flags = [f"--gin.{flag}" for flag in flags]
    settings, build = settings_of([str(small_recipe)], flags, args)

    def plan():
      parts = Partitioning(make_mesh(settings["mesh"]), settings["fsdp"])
      return build(settings, parts)

    return settings, build, plan

  return make

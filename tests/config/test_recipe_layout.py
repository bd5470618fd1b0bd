"""The layout in gin_files.py's docstring: scopes, includes, redefinitions."""

import pytest

from taskmoe_jax.config.build import configured
from taskmoe_jax.errors import TaskMoeError


def built():
  from fakes import loop

  return configured(loop.train)()


def granularities(model) -> tuple[str, str]:
  return model.encoder.moe.granularity, model.decoder.moe.granularity


def test_nested_references_inherit_the_scope_and_recipes_redefine(load):
  from fakes import config

  load()
  result = built()
  assert result["num_steps"] == 100
  assert result["model"] == config.ModelConfig(
    encoder=config.StackConfig(
      num_layers=6,
      mlp_dims=(64, 48),
      moe=config.MoeConfig(granularity="task", num_experts=4),
    ),
    decoder=config.StackConfig(
      num_layers=6,
      mlp_dims=(64, 48),
      moe=config.MoeConfig(granularity="token", num_experts=4),
    ),
    embed_dim=32,
  )


def test_the_command_line_comes_last(load):
  load(
    "--gin.DECODER=sentence",
    "--gin.ENCODER=static",
    "--gin.ENCODER=token",
    "--gin.decoder/config.StackConfig.num_layers=2",
    "--gin.encoder/config.MoeConfig.num_experts=8",
    "--gin.loop.train.seed=3",
  )
  result = built()
  model = result["model"]
  assert granularities(model) == ("token", "sentence")
  assert (model.encoder.num_layers, model.decoder.num_layers) == (6, 2)
  assert (model.encoder.moe.num_experts, model.decoder.moe.num_experts) == (
    8,
    4,
  )
  assert result["seed"] == 3


def test_a_reference_on_the_command_line(load):
  load(
    "--gin.decoder/config.StackConfig.moe=None",
    "--gin.NUM_LAYERS=%WIDTH",
    "--gin.WIDTH=7",
    "--gin.DECODER=x",
    "--gin.loop.train.schedule=%DECODER",
  )
  result = built()
  assert result["model"].decoder.moe is None
  assert result["model"].encoder.num_layers == 7
  assert result["schedule"] == "x"


def test_the_later_of_two_files_wins(load, write):
  load(files=["recipes/task.gin", write("ENCODER = 'static'")])
  assert granularities(built()["model"]) == ("static", "token")


def test_an_include_below_overwrites_what_stands_above(load, write):
  load(files=[write("ENCODER = 'static'\ninclude 'recipes/task.gin'")])
  assert granularities(built()["model"]) == ("task", "token")


def test_a_macro_replaces_the_scope(load, write):
  """Why inside scoped constructors one writes references, not macros."""
  name = write("""
loop.train.model = @encoder/config.StackConfig()
loop.train.num_steps = 3
config.StackConfig.num_layers = 2
config.StackConfig.mlp_dims = (8,)
config.StackConfig.moe = %MOE
MOE = @config.MoeConfig()
config.MoeConfig.num_experts = 4
encoder/config.MoeConfig.granularity = 'task'
""")
  with pytest.raises(
    TaskMoeError,
    match=r"read by nothing: encoder/config.MoeConfig.granularity"
    r" \(own.gin line 12\)\.",
  ):
    load(files=[name])

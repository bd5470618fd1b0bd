"""Values of a wrong type stop before anything is built."""

import re

import pytest

from taskmoe_jax.config.build import arguments, configured
from taskmoe_jax.errors import TaskMoeError

RECIPE = """
from fakes import typed

RUN = @typed.run()
NAME = 'a'
ALIAS = %NAME
loop.anything.result = %RUN
typed.run.name = %ALIAS
config.MoeConfig.granularity = 'task'
config.MoeConfig.num_experts = 4
config.StackConfig.num_layers = 2
config.StackConfig.mlp_dims = (8,)
typed.run.moe = @config.MoeConfig()
typed.run.stack = @inner/config.StackConfig()
typed.run.schedule = @typed.ramp()
"""


@pytest.fixture
def build(load, write):
  from fakes import loop

  def build(*flags: str):
    load(*flags, files=[write(RECIPE)])
    return arguments(loop.anything)

  return build


@pytest.mark.parametrize(
  "flag",
  [
    "steps=3",
    "rate=0.5",
    "rate=3",
    "name=3k",
    "pack=False",
    "sizes=(1, 2)",
    "sizes=[1, 2]",
    "limit=3",
    "limit=None",
    "schedule=@typed.count",
    "schedule=@typed.ramp()",
    "moe=None",
    "side=left",
    "side=middle",
    "start=left",
    "start=@typed.side_of_a_file()",
    "end=right",
    "end=None",
    # What cannot be known is left to gin and to the function.
    "mixture=3",
    "mixture=x",
    "later=3",
    "plain=3",
    "unnamed=3",
    "steps=@typed.load()",
  ],
)
def test_values_of_the_right_type(build, flag):
  assert build(f"--gin.typed.run.{flag}").keys() == {"result"}


@pytest.mark.parametrize(
  ("flag", "value", "given", "accepted"),
  [
    ("steps=3k", "'3k'", "str", "int"),
    ("steps=1e6", "1000000.0", "float", "int"),
    ("steps=True", "True", "bool", "int"),
    ("steps=None", "None", "None", "int"),
    ("rate=fast", "'fast'", "str", "float"),
    ("rate=True", "True", "bool", "float"),
    ("name=2021", "2021", "int", "str"),
    ("pack=0", "0", "int", "bool"),
    ("pack=no", "'no'", "str", "bool"),
    ("sizes=3", "3", "int", "Sequence"),
    ("sizes=3,4", "'3,4'", "str", "Sequence"),
    ("limit=all", "'all'", "str", "int or None"),
    ("schedule=ramp", "'ramp'", "str", "function"),
    ("schedule=0.1", "0.1", "float", "function"),
    (
      "schedule=@config.MoeConfig()",
      "@config.MoeConfig()",
      "MoeConfig",
      "function",
    ),
    ("moe=4", "4", "int", "MoeConfig or None"),
    (
      "moe=@config.MoeConfig",
      "@config.MoeConfig",
      "function",
      "MoeConfig or None",
    ),
    (
      "stack=@config.MoeConfig()",
      "@config.MoeConfig()",
      "MoeConfig",
      "StackConfig or None",
    ),
    ("side=3", "3", "int", "Side or str"),
    ("start=3", "3", "int", "Side or str"),
    ("end=True", "True", "bool", "Side or str or None"),
  ],
)
def test_values_of_a_wrong_type(build, flag, value, given, accepted):
  name = flag.partition("=")[0]
  message = (
    f"{name}={value} is of type {given}: accepted is {accepted}. Set"
    f" typed.run.{name}."
  )
  with pytest.raises(TaskMoeError, match=f"^{re.escape(message)}$"):
    build(f"--gin.typed.run.{flag}")


@pytest.mark.parametrize(
  ("flag", "to_set"),
  [
    # The macro that holds the value, not one that leads to it.
    ("NAME=3", "NAME"),
    ("ALIAS=3", "ALIAS"),
    # Where it is bound, not where it is read.
    ("config.StackConfig.num_layers=x", "config.StackConfig.num_layers"),
    (
      "inner/config.StackConfig.num_layers=x",
      "inner/config.StackConfig.num_layers",
    ),
  ],
)
def test_what_to_set(build, flag, to_set):
  with pytest.raises(TaskMoeError, match=rf"\. Set {to_set}\.$"):
    build(f"--gin.{flag}")


def test_arguments_that_are_supplied_are_not_looked_at(load, write):
  from fakes import typed

  load("--gin.typed.run.steps=x", files=[write(RECIPE)])
  assert configured(typed.run)(steps=4) == (4, 1.0)
  with pytest.raises(TaskMoeError, match="steps='x'"):
    configured(typed.run)()

"""Bindings that nothing reads stop; those of other commands do not."""

import re

import gin
import pytest

from taskmoe_jax.config import gin_private
from taskmoe_jax.config.build import configured
from taskmoe_jax.config.calls import calls_from
from taskmoe_jax.errors import TaskMoeError


def unread(*bindings: str) -> str:
  return re.escape(
    f"bound in gin but read by nothing: {'; '.join(bindings)}. Correct the"
    " name, or remove the binding."
  )


def test_bindings_of_another_command_are_no_mistake(load):
  load("--gin.BEAM_SIZE=3", "--gin.NUM_STEPS=4")
  from fakes import loop

  assert configured(loop.train)()["num_steps"] == 4


@pytest.mark.parametrize(
  ("text", "binding"),
  [
    (
      "NUM_STEPSS = 3",
      "NUM_STEPSS (own.gin line 5; did you mean NUM_STEPS?)",
    ),
    ("WIDTH = 3", "WIDTH (own.gin line 5)"),
    # A scope that nothing opens.
    (
      "encodr/config.MoeConfig.num_experts = 8",
      "encodr/config.MoeConfig.num_experts (own.gin line 5; did you mean"
      " encoder?)",
    ),
    ("here/loop.train.seed = 3", "here/loop.train.seed (own.gin line 5)"),
    # A function that no command calls.
    ("loop.crash.message = 'x'", "loop.crash.message (own.gin line 5)"),
    # Mentioned, but only by itself.
    (
      "loop.crash.message = %WHY\nWHY = 'x'",
      "loop.crash.message (own.gin line 5); WHY (own.gin line 6)",
    ),
  ],
)
def test_bindings_that_nothing_reads(load, write, text, binding):
  name = write("include 'recipes/task.gin'\n" + text)
  with pytest.raises(TaskMoeError, match=f"^{unread(binding)}$"):
    load(files=[name])


def test_a_constructor_that_is_never_called(load, write):
  """Dense stacks: experts are bound, but there is no MoE layer to take them."""
  name = write("""
loop.train.model = @config.StackConfig()
loop.train.num_steps = 3
config.StackConfig.num_layers = 2
config.StackConfig.mlp_dims = (8,)
NUM_EXPERTS = 4
config.MoeConfig.num_experts = %NUM_EXPERTS
""")
  with pytest.raises(
    TaskMoeError,
    match=unread(
      "NUM_EXPERTS (own.gin line 9)",
      "config.MoeConfig.num_experts (own.gin line 10)",
    ),
  ):
    load(files=[name])


def test_what_a_later_binding_leaves_behind_may_stay_in_files(load):
  """One cannot take back what an included file says of experts and layers."""
  load("--gin.config.StackConfig.moe=None")
  load("--gin.decoder/config.StackConfig.moe=None")
  load("--gin.config.StackConfig.num_layers=3")
  load("--gin.loop.train.model=None")
  message = unread("config.MoeConfig.num_experts (the command line)")
  with pytest.raises(TaskMoeError, match=message):
    load(
      "--gin.config.StackConfig.moe=None",
      "--gin.config.MoeConfig.num_experts=8",
    )


def test_a_misspelt_macro_on_the_command_line(load):
  message = unread("NUM_STEP (the command line; did you mean NUM_STEPS?)")
  with pytest.raises(TaskMoeError, match=message):
    load("--gin.NUM_STEP=3")


def test_inner_scopes_override_in_files_but_not_the_command_line(load, write):
  """In files that is how gin specialises, and what is overridden may stay."""
  name = write(
    "include 'recipes/task.gin'\n"
    "encoder/config.StackConfig.num_layers = 1\n"
    "decoder/config.StackConfig.num_layers = 2"
  )
  load(files=[name])
  both = (
    "the command line; overridden by encoder/config.StackConfig.num_layers,"
    " decoder/config.StackConfig.num_layers"
  )
  with pytest.raises(
    TaskMoeError, match=unread(f"config.StackConfig.num_layers ({both})")
  ):
    load("--gin.config.StackConfig.num_layers=3", files=[name])
  with pytest.raises(
    TaskMoeError, match=unread("NUM_LAYERS (the command line)")
  ):
    load("--gin.NUM_LAYERS=3", files=[name])


def test_a_function_handed_over_may_be_called_with_its_bindings(load, write):
  from fakes import loop

  name = write(
    "include 'recipes/task.gin'\n"
    "loop.train.schedule = @loop.warmup\n"
    "loop.warmup.num_warmup_steps = 8"
  )
  load("--gin.NUM_LAYERS=1", files=[name])
  assert configured(loop.train)()["schedule"](2) == 0.25


def test_a_function_handed_over_by_a_macro_is_called_outside_its_scope(
  load, write
):
  from fakes import loop

  name = write(
    "include 'recipes/task.gin'\n"
    "SCHEDULE = @loop.warmup\n"
    "loop.train.schedule = %SCHEDULE\n"
    "SCHEDULE/loop.warmup.num_warmup_steps = 8"
  )
  load("--gin.loop.warmup.num_warmup_steps=5", files=[name])
  assert configured(loop.train)()["schedule"](2) == 0.4


def test_what_is_followed_is_what_gin_calls(load, write):
  """The walk over references against gin's own record of an actual run."""
  from fakes import loop

  text = """
include 'recipes/task.gin'
NUM_EXPERTS = %gin.REQUIRED
config.MoeConfig.num_experts = %NUM_EXPERTS
loop.train.schedule = {'a': [@nested/config.MoeConfig(), %LIST]}
LIST = (@config.MoeConfig(),)
nested/config.MoeConfig.granularity = 'static'
LIST/config.MoeConfig.granularity = 'sentence'
"""
  load("--gin.NUM_EXPERTS=16", files=[write(text)])
  gin.get_configurable(loop.train)()
  operative = {
    (scope, selector, parameter)
    for (scope, selector), parameters in gin.config._OPERATIVE_CONFIG.items()
    for parameter in parameters
  }
  followed = {
    ("/".join(call.scope), call.selector, parameter)
    for call, parameters in calls_from("fakes.loop.train")
    for parameter in parameters
  }
  # gin records defaults too.
  defaults = {
    "dropout_rate",
    "moe",
    "seed",
    "run_dir",
    "schedule",
  }
  assert followed <= operative
  assert {parameter for *_, parameter in operative - followed} <= defaults
  assert ("LIST", "fakes.config.MoeConfig", "granularity") in followed
  assert len(gin_private.bindings()) == len(gin.config._CONFIG)

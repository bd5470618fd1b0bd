"""Plain functions called with what gin binds, and what is missing."""

import pytest

from taskmoe_jax.config.build import configured
from taskmoe_jax.errors import TaskMoeError


def test_a_function_that_no_gin_file_names(load):
  from fakes import loop

  load()
  assert configured(loop.anything)(a=3) == {"a": 3}


def test_supplied_arguments_win(load):
  from fakes import loop

  load("--gin.RUN_DIR=a")
  assert configured(loop.evaluate)() == (5, "a")
  assert configured(loop.evaluate)(run_dir="b") == (5, "b")
  # The placeholder in the recipe is never read then.
  load()
  assert configured(loop.evaluate)(run_dir="b") == (5, "b")


def test_everything_that_is_missing_is_named_at_once(load, write):
  from fakes import loop

  name = write("""
MODEL = @config.ModelConfig()
STEPS = %gin.REQUIRED
loop.train.model = %MODEL
loop.train.num_steps = %STEPS
loop.evaluate.beam_size = %gin.REQUIRED
config.ModelConfig.encoder = @encoder/config.StackConfig()
config.ModelConfig.decoder = None
config.StackConfig.num_layers = 3
config.StackConfig.moe = @config.MoeConfig()
config.MoeConfig.granularity = 'task'
""")
  load(files=[name])
  with pytest.raises(
    TaskMoeError,
    match=r"^train needs a value for STEPS, config.ModelConfig.embed_dim,"
    r" encoder/config.StackConfig.mlp_dims,"
    r" encoder/config.MoeConfig.num_experts. Bind in a gin file, or as"
    r" --gin.STEPS=VALUE.$",
  ):
    configured(loop.train)()
  with pytest.raises(
    TaskMoeError,
    match=r"^evaluate needs a value for loop.evaluate.beam_size,"
    " loop.evaluate.run_dir. Bind",
  ):
    configured(loop.evaluate)()


def test_a_supplied_argument_is_not_one_of_a_constructor(load, write):
  from fakes import loop

  name = write("""
loop.anything.moe = @config.MoeConfig()
config.MoeConfig.granularity = 'task'
""")
  load(files=[name])
  with pytest.raises(
    TaskMoeError,
    match=r"^anything needs a value for config.MoeConfig.num_experts. Bind",
  ):
    configured(loop.anything)(num_experts=4)


def test_a_mistake_found_by_a_constructor_says_in_which_scope(load):
  from fakes import loop

  load("--gin.decoder/config.StackConfig.num_layers=12")
  with pytest.raises(
    TaskMoeError,
    match=r"^num_layers=12 is over 9. Set StackConfig.num_layers."
    r" \(In decoder/StackConfig.\)$",
  ):
    configured(loop.train)()


def test_the_scope_of_a_macro_is_not_mentioned(load, write):
  from fakes import loop

  name = write("""
STACK = @config.StackConfig()
loop.anything.stack = %STACK
config.StackConfig.num_layers = 12
config.StackConfig.mlp_dims = (8,)
""")
  load(files=[name])
  with pytest.raises(
    TaskMoeError,
    match=r"^num_layers=12 is over 9. Set StackConfig.num_layers.$",
  ):
    configured(loop.anything)()


def test_settings_of_a_function_that_is_handed_over(load, write):
  """They are keyword-only; `step` comes from the program."""
  from fakes import loop

  load(files=[write("loop.anything.schedule = @loop.warmup")])
  with pytest.raises(
    TaskMoeError,
    match=r"^anything needs a value for loop.warmup.num_warmup_steps. Bind",
  ):
    configured(loop.anything)()


def test_an_error_of_the_function_itself_is_left_as_it_is(load):
  from fakes import loop

  with pytest.raises(KeyError) as caught:
    configured(loop.crash)(message="broken")
  assert type(caught.value) is KeyError
  assert caught.value.args == ("broken",)

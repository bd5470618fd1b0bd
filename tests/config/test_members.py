"""Strings of gin files become members of enums where gin calls something."""

import re

import pytest

from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import arguments, configured
from taskmoe_jax.errors import TaskMoeError

RECIPE = """
from fakes import typed

SIDE = 'right'
loop.anything.page = @outer/typed.Page()
loop.anything.turn = @typed.turn
typed.Page.side = %SIDE
outer/typed.Page.inner = @inner/typed.Page()
inner/typed.Page.side = 'left'
inner/typed.Page.back = 'right'
inner/typed.Page.inner = None
typed.turn.side = 'right'
"""


@pytest.fixture
def build(load, write):
  from fakes import loop

  def build(*flags: str, recipe: str = RECIPE):
    load(*flags, files=[write(recipe)])
    return arguments(loop.anything)

  return build


def test_nested_constructors_take_members(build):
  from fakes.typed import Side

  page = build()["page"]
  assert page.side is Side.RIGHT
  assert page.back is None
  assert page.inner.side is Side.LEFT
  assert page.inner.back is Side.RIGHT


def test_so_do_functions_that_the_program_calls(build):
  from fakes.typed import Side

  turn = build()["turn"]
  assert turn(3) == (3, Side.RIGHT)
  assert turn(3)[1] is Side.RIGHT
  assert turn(3, side=Side.LEFT)[1] is Side.LEFT


def test_so_does_the_top_function(load, write):
  from fakes import typed
  from fakes.typed import Side

  recipe = """
from fakes import typed
SIDE = 'right'
loop.anything.run = @typed.run
typed.run.start = %SIDE
typed.run.side = %SIDE
"""
  load(files=[write(recipe)])
  found = arguments(typed.run)
  assert found["start"] is Side.RIGHT
  # What accepts any string is left alone.
  assert type(found["side"]) is str
  assert configured(typed.run)() == (1, 1.0)


def test_the_kept_config_holds_the_strings(build):
  build()
  text = gin_files.config_text()
  assert "SIDE = 'right'" in text
  assert "inner/typed.Page.side = 'left'" in text
  assert "Side" not in text.replace("SIDE", "")
  gin_files.load(["own.gin"], top_functions=("fakes.loop.anything",))
  assert gin_files.config_text() == text


@pytest.mark.parametrize(
  ("flag", "message"),
  [
    (
      "SIDE=rihgt",
      "unknown side 'rihgt': accepted are left, right (did you mean"
      " 'right'?). Set Page.side. (In outer/Page.)",
    ),
    (
      "inner/typed.Page.back=x",
      "unknown back 'x': accepted are left, right. Set Page.back. (In"
      " inner/Page.)",
    ),
    (
      "typed.turn.side=x",
      "unknown side 'x': accepted are left, right. Set typed.turn.side.",
    ),
  ],
)
def test_an_unknown_name_stops_before_anything_is_built(
  build, flag, message, monkeypatch
):
  from fakes import typed

  built = []
  monkeypatch.setattr(typed.Page, "__post_init__", built.append)
  with pytest.raises(TaskMoeError, match=f"^{re.escape(message)}$"):
    build(f"--gin.{flag}")
  assert not built


def test_a_function_names_the_macro_to_set(load, write):
  from fakes import typed

  recipe = """
from fakes import typed
SIDE = 'x'
loop.anything.run = @typed.run
typed.run.start = %SIDE
"""
  load(files=[write(recipe)])
  with pytest.raises(
    TaskMoeError,
    match=r"^unknown start 'x': accepted are left, right. Set SIDE.$",
  ):
    arguments(typed.run)


def test_a_string_that_a_function_returns(build):
  from fakes.typed import Side

  built = build("--gin.inner/typed.Page.back=@typed.side_of_a_file()")
  assert built["page"].inner.back is Side.RIGHT

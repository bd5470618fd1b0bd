"""What `--gin.NAME=VALUE` means, value by value."""

import re

import pytest
from gin import config

from taskmoe_jax.config.build import configured
from taskmoe_jax.config.overrides import parse_value
from taskmoe_jax.errors import TaskMoeError


@pytest.mark.parametrize(
  ("text", "expected"),
  [
    ("3", 3),
    ("-3", -3),
    ("1_000", 1000),
    ("0.5", 0.5),
    ("-2.5e-3", -0.0025),
    ("True", True),
    ("False", False),
    ("None", None),
    ("(1, 2)", (1, 2)),
    ("[1, -2]", [1, -2]),
    ("{'a': (1, 'b')}", {"a": (1, "b")}),
    ("'3'", "3"),
    ('"two words"', "two words"),
    (" 7 ", 7),
    # Strings without quotes.
    ("target", "target"),
    ("two words", "two words"),
    ("/tmp/run_3", "/tmp/run_3"),
    ("runs/a=b", "runs/a=b"),
    ("gs://bucket/3", "gs://bucket/3"),
    ("3k", "3k"),
    ("3/4", "3/4"),
    ("1,2", "1,2"),
    ("2021-01-01", "2021-01-01"),
    ("-x", "-x"),
    ("de-en", "de-en"),
    ("a#b", "a#b"),
    ("none", "none"),
    ("", ""),
  ],
)
def test_values(text, expected):
  value = parse_value(text, config.ParserDelegate())
  assert value == expected
  assert type(value) is type(expected)


@pytest.mark.parametrize(
  "text", ["(1, 2", "[a]", "{'a'}", "'a", "%", "@", "(1)2"]
)
def test_values_that_begin_as_gin_values_must_be_such(text):
  message = (
    f"{text!r} does not parse as a gin value. Strings inside brackets need"
    " quotes."
  )
  with pytest.raises(TaskMoeError, match=f"^{re.escape(message)}$"):
    parse_value(text, config.ParserDelegate())


@pytest.mark.parametrize("text", ["true", "false"])
def test_booleans_in_lower_case_are_slips(text):
  with pytest.raises(
    TaskMoeError,
    match=f"^'{text}' would be a string; accepted are True and False.$",
  ):
    parse_value(text, config.ParserDelegate())


MISTAKES = {
  "--gin.NUM_STEPS": "'--gin.NUM_STEPS' binds nothing: write --gin.NAME=VALUE.",
  "--gin.=3": "'--gin.=3' binds nothing: write --gin.NAME=VALUE.",
  "--gin.NUM_STEPS=(3": (
    "--gin.NUM_STEPS: '(3' does not parse as a gin value. Strings inside"
    " brackets need quotes."
  ),
  "--gin.loop.train.seed=true": (
    "--gin.loop.train.seed: 'true' would be a string; accepted are True and"
    " False."
  ),
  "--gin.lop.train.seed=3": (
    "--gin.lop.train.seed: 'lop.train' is not imported here: imported are"
    " config, loop."
  ),
  "--gin.loop.train.sed=3": (
    "--gin.loop.train.sed: unknown parameter of loop.train 'sed': accepted are"
    " model, num_steps, seed, run_dir, schedule (did you mean 'seed'?)."
  ),
  "--gin.loop.trian.seed=3": (
    "--gin.loop.trian.seed: unknown name in loop 'trian': accepted are train,"
    " evaluate, warmup, crash, anything (did you mean 'train'?)."
  ),
  "--gin.MODEL=@config.ModlConfig()": (
    "--gin.MODEL: unknown name in config 'ModlConfig': accepted are MoeConfig,"
    " StackConfig, ModelConfig (did you mean 'ModelConfig'?)."
  ),
  "--gin.ENCODER=%DECODR": (
    "ENCODER (the command line): unknown macro 'DECODR': accepted are ENCODER,"
    " DECODER, NUM_LAYERS, MODEL, NUM_STEPS, RUN_DIR, BEAM_SIZE (did you mean"
    " 'DECODER'?)."
  ),
}


@pytest.mark.parametrize("flag", MISTAKES)
def test_mistakes(load, flag):
  with pytest.raises(TaskMoeError) as caught:
    load(flag)
  assert str(caught.value).startswith(MISTAKES[flag])
  assert "\n" not in str(caught.value)


def test_overrides_see_what_any_file_imports(load, write):
  """Also a function that no file binds, and one of an included file."""
  from fakes import loop

  name = write("loop.train:\n  model = None\n  num_steps = 3")
  load(
    "--gin.loop.evaluate.beam_size=4",
    "--gin.RUN_DIR=a",
    "--gin.loop.evaluate.run_dir=%RUN_DIR",
    files=[name],
  )
  assert configured(loop.evaluate)() == (4, "a")

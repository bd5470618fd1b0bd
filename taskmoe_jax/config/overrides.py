"""Bindings from the command line, `--gin.NAME=VALUE`.

NAME is a macro (`TRAIN_STEPS`) or a parameter as gin files write it
(`loop.train.seed`, `encoder/config.MoeConfig.num_experts`); modules that any
gin file imports can be named. VALUE needs no quotes. In this order, it is

1. what gin makes of it, if it begins with one of `@ % ( [ { ' "`: a reference,
   a macro, a tuple, a list, a dict, a string; one that does not parse is an
   error;
2. a number, `True`, `False` or `None`, if all of it is one: `-3`, `1e-4`;
3. a string in all other cases: `target`, `runs/a`, `/tmp/x`, `3k`, `1,2`, and
   nothing at all. Only `true` and `false` are refused, as likely mistakes.
"""

import tokenize
from collections.abc import Iterable
from typing import Any

from gin import config, config_parser

from taskmoe_jax.config import gin_private, names
from taskmoe_jax.config.names import Binding, Delegate
from taskmoe_jax.errors import TaskMoeError

FLAG = "--gin."


def apply(flags: Iterable[str]) -> list[Binding]:
  """Binds `--gin.NAME=VALUE` flags in order; the last of one name wins."""
  with gin_private.parse_scope() as context:
    for statement in gin_private.all_imports():
      context.process_import(statement)
    return [_bind(context, flag) for flag in flags]


def _bind(context: config.ParseContext, flag: str) -> Binding:
  name, equals, text = flag.removeprefix(FLAG).partition("=")
  if not (name and equals):
    raise TaskMoeError(f"{flag!r} binds nothing: write --gin.NAME=VALUE.")
  try:
    value = parse_value(text, Delegate(context))
    key = names.bind(context, name, value)
  except TaskMoeError as error:
    reason = str(error).partition("\n")[0]
    raise TaskMoeError(f"{FLAG}{name}: {reason}") from None
  return Binding(key, value, name, "the command line", is_override=True)


def parse_value(text: str, delegate: config_parser.ParserDelegate) -> Any:
  """Reads a value by the rules at the top of this file."""
  text = text.strip()
  try:
    parser = config_parser.ConfigParser(text, delegate)
    value = parser.parse_value()
    is_whole = parser.current_token.type in (
      tokenize.NEWLINE,
      tokenize.ENDMARKER,
    )
  except (SyntaxError, tokenize.TokenError):
    is_whole = False
  if is_whole:
    return value
  if text.startswith(("@", "%", "(", "[", "{", "'", '"')):
    raise TaskMoeError(
      f"{text!r} does not parse as a gin value. Strings inside brackets need"
      " quotes."
    )
  if text in ("true", "false"):
    raise TaskMoeError(
      f"{text!r} would be a string; accepted are True and False."
    )
  return text

"""Finds, parses and stores gin files.

A file is looked for in the working directory, then in the package's gin folder,
and so are the files that it includes: `recipes/demo.gin` works from anywhere,
`gin/recipes/demo.gin` from a checkout, an absolute path always.

Our layout: a model file builds nested configs; a scope that is written
at a reference is inherited by the references inside what it builds:

  from __gin__ import dynamic_registration
  from taskmoe_jax.models import config

  ENCODER = 'token'
  DECODER = 'token'
  MODEL = @config.ModelConfig()
  config.ModelConfig.encoder = @encoder/config.StackConfig()
  config.ModelConfig.decoder = @decoder/config.StackConfig()
  config.StackConfig.moe = @config.MoeConfig()
  encoder/config.MoeConfig.granularity = %ENCODER
  decoder/config.MoeConfig.granularity = %DECODER

A recipe imports what it binds itself, includes, then redefines; of two
definitions the later wins, and the command line (`--gin.ENCODER=task`) is last:

  from __gin__ import dynamic_registration
  from taskmoe_jax.train import loop

  include 'models/base.gin'
  ENCODER = 'task'
  loop.train.model = %MODEL

A macro replaces the scope it is read in. So inside scoped constructors write
references (`@config.MoeConfig()`), never a macro that holds one: it would be
built in the scope of the macro's name and see none of `encoder/...`.
"""

import os
import pathlib
import re
import tokenize
from collections.abc import Iterable, Iterator
from typing import TextIO

import gin
from gin import config, config_parser

import taskmoe_jax
from taskmoe_jax.config import gin_private, guard, names, overrides, renames
from taskmoe_jax.config.names import MACRO, Binding, Delegate
from taskmoe_jax.errors import TaskMoeError, one_of

_Statement = (
  config_parser.BindingStatement
  | config_parser.BlockDeclaration
  | config_parser.ImportStatement
  | config_parser.IncludeStatement
)
RECIPES = "recipes/*.gin"
# Our macros that name a file or a folder.
_PATHS = (
  "RUN_DIR",
  "INITIAL_RUN",
  "VOCABULARY",
  "CACHE",
  "TSV_FOLDER",
  "TEXT_FOLDER",
  "TFDS_DATA_DIR",
)


def load(
  files: Iterable[str],
  flags: Iterable[str] = (),
  *,
  top_functions: Iterable[str],
) -> None:
  """Replaces the gin config by `files`, then `--gin.NAME=VALUE` flags.

  Earlier bindings are forgotten. Nothing is built yet, and gin's own `finalize`
  is not called: it refuses every `%gin.REQUIRED`, even one that only another
  command reads (`build.configured` has our check).

  Args:
    files: As on the command line, in order.
    flags: As on the command line, in order.
    top_functions: Those of all commands, for `guard.check_all_used`.
  """
  gin.clear_config()
  bindings: list[Binding] = []
  for name in files:
    _parse_file(name, bindings)
  bindings += overrides.apply(flags)
  guard.check_macros_exist(bindings)
  for left_behind in guard.check_all_used(top_functions, bindings):
    gin_private.unbind(*left_behind)


def config_text() -> str:
  """All bindings as one gin file.

  Not gin's operative config, for two reasons: it lacks what this command did
  not read, such as the settings of `evaluate` in a recipe for `train`; and it
  writes a value under the scope in which it was read (`MODEL/config.X.y = 3`),
  which would override a later `--gin.config.X.y=4`. Since `load` has refused or
  forgotten bindings that nothing reads, this text contains none of them and can
  be loaded on its own.
  """
  return gin.config_str()


def kept_text() -> str:
  """`config_text` for a run directory: it means the same from any folder.

  Relative paths, such as that of the mixture's text, become absolute, but only
  in this text: messages name the paths that the user gave.
  """
  bindings = gin_private.bindings()
  given = {
    name: bindings[name, MACRO]["value"]
    for name in _PATHS
    if (name, MACRO) in bindings
  }
  try:
    for name, value in given.items():
      if isinstance(value, str) and not re.match(r"~|\w+://", value):
        gin.bind_parameter((name, MACRO, "value"), os.path.abspath(value))
    return config_text()
  finally:
    for name, value in given.items():
      gin.bind_parameter((name, MACRO, "value"), value)


def gin_folder() -> pathlib.Path:
  """The folder with our gin files, of an installed package or a checkout."""
  package = pathlib.Path(taskmoe_jax.__file__).parent
  installed = package / "gin"
  return installed if installed.is_dir() else package.parent / "gin"


def recipes() -> list[str]:
  """Names of our recipes, as `--gin_file` takes them."""
  return _gin_files(RECIPES)


def find_gin_file(name: str, pattern: str = RECIPES) -> pathlib.Path:
  """Finds a gin file; if it is missing, the error lists ours of `pattern`."""
  for folder in (pathlib.Path(), gin_folder()):
    if (folder / name).is_file():
      return folder / name
  known = one_of("gin file", name, _gin_files(pattern))
  raise TaskMoeError(f"{known}, or a path from the working directory.")


def _gin_files(pattern: str) -> list[str]:
  folder = gin_folder()
  return sorted(
    path.relative_to(folder).as_posix() for path in folder.glob(pattern)
  )


def _parse_file(
  name: str, bindings: list[Binding], including: tuple[str, ...] = ()
) -> None:
  """Binds what a file says, and appends it to `bindings`.

  Replaces `gin.parse_config_file`, which reports the place of a mistake in
  extra lines and searches sys.path for included files.
  """
  path = find_gin_file(name, "**/*.gin" if including else RECIPES)
  if name in including:
    raise TaskMoeError(f"{name} includes itself.")
  with (
    open(path, encoding="utf-8") as file,
    gin_private.parse_scope() as context,
  ):
    for line, statement in _statements(file, context, name):
      try:
        match statement:
          case config_parser.ImportStatement():
            _import(context, statement)
          case config_parser.IncludeStatement():
            _parse_file(statement.filename, bindings, (*including, name))
          case config_parser.BindingStatement():
            place = f"{name} line {line}"
            bindings.append(_bind(context, statement, place))
      except (TaskMoeError, SyntaxError) as error:
        raise TaskMoeError(f"{name} line {line}: {_reason(error)}") from None
    gin_private.remember_imports(context.imports)


def _statements(
  file: TextIO, context: config.ParseContext, name: str
) -> Iterator[tuple[int, _Statement]]:
  """Statements with their line numbers; a syntax error is a TaskMoeError."""
  parser: config_parser.ConfigParser | None = None
  try:
    parser = config_parser.ConfigParser(file, Delegate(context))
    for statement in parser:
      yield statement.location.line_num, statement
    return
  except SyntaxError as error:
    line, reason = error.args[1][1], _reason(error)
  except tokenize.TokenError as error:
    # Line and words differ between Python 3.11 and 3.12.
    reason, (line, _) = error.args
    if "EOF in multi-line" in reason:
      reason = "a bracket or a quote is not closed."
    if parser is not None:
      line = parser.current_token.start[0]
  except UnicodeDecodeError:
    raise TaskMoeError(f"{name} is not UTF-8 text.") from None
  except TaskMoeError as error:
    assert parser is not None  # Its delegate has raised it.
    line, reason = parser.current_token.start[0], _reason(error)
  raise TaskMoeError(f"{name} line {line}: {reason}")


def _import(
  context: config.ParseContext, statement: config_parser.ImportStatement
) -> None:
  try:
    context.process_import(renames.statement(statement))
  except ImportError as error:
    raise TaskMoeError(
      f"`{statement.format()}` failed: {error}. A gin file imports modules,"
      " not names inside them."
    ) from None


def _bind(
  context: config.ParseContext,
  statement: config_parser.BindingStatement,
  place: str,
) -> Binding:
  scope, selector, parameter, value, _ = statement
  name = f"{scope}/{selector}" if scope else selector
  if parameter:
    name += f".{parameter}"
  return Binding(names.bind(context, name, value), value, name, place)


def _reason(error: Exception) -> str:
  """An error's first line; gin appends others, and is unclear about names."""
  message = str(error.args[0]) if error.args else str(error)
  unquoted = re.search(r"Failed to parse token '(.*)'", message)
  if unquoted:
    return f"{unquoted[1]!r} is not a gin value. Strings need quotes."
  return message.partition("\n")[0]

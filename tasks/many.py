"""`many` languages and pairs from one folder, and `text` in single languages.

  many:   xx-yy.{train,dev,test}.tsv[.gz]   parallel, English or not
  text:   xx.{train,dev,test}.txt[.gz]      a sentence a line

`text` is for language modelling: a source is `<2xx>` alone and the target the
sentence, so that xx-xx is a pair and xx a task like any other.
"""

import functools
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from taskmoe_jax.data.corpus import Mixture
from taskmoe_jax.data.text.cleaning import Cleaning
from taskmoe_jax.data.text.tsv import (
  FILE_PARTS,
  LANGUAGE,
  TsvFolder,
  open_lines,
)
from taskmoe_jax.errors import TaskMoeError, one_of

if TYPE_CHECKING:
  from taskmoe_jax.data.seqio.sources import ParallelSource

_TEXT_NAME = re.compile(
  rf"({LANGUAGE})\.({'|'.join(FILE_PARTS.values())})\.txt(?:\.gz)?"
)


def many(
  folder: str,
  *,
  vocabulary: str | None,
  temperature: float,
  cleaning: Cleaning | None,
  languages: Sequence[str] | None,
  with_text: bool,
) -> Mixture:
  """Registers all pairs of a folder, or those among some languages.

  Args:
    folder: Folder of parallel files, and of text files if they are wanted.
    vocabulary: Vocabulary of the seqio tasks, see `register_mixture`.
    temperature: Sampling temperature, see `register_mixture`.
    cleaning: What to remove from the train parts; None for nothing.
    languages: Which languages to use; None for all of the folder.
    with_text: Whether to train on the folder's text files too, as `text` does.
  """
  # Not above, as in `tsv.py`.
  from taskmoe_jax.data.seqio.registration import (
    both_directions,
    register_mixture,
  )

  files = TsvFolder(folder)
  known = dict.fromkeys(language for pair in files.pairs for language in pair)
  wanted = tuple(known) if languages is None else tuple(languages)
  for language in wanted:
    if language not in known:
      raise TaskMoeError(
        one_of(f"language of {folder!r}", language, known)
        + ". Set many.languages."
      )
  sources = []
  for pair in files.pairs:
    if set(pair) <= set(wanted):
      texts = {
        part: functools.partial(files.text, pair, part)
        for part in files.parts(pair)
      }
      sources += both_directions(pair, texts, cleaning=cleaning)
  if not sources:
    raise TaskMoeError(
      f"{folder!r} has no pair among {', '.join(wanted)}. Set many.languages."
    )
  if with_text:
    sources += [
      source
      for source in _text_sources(folder, cleaning)
      if source.source_language in wanted
    ]
  return register_mixture(
    "many",
    sources,
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix="many",
  )


def text(
  folder: str,
  *,
  vocabulary: str | None,
  temperature: float,
  cleaning: Cleaning | None,
) -> Mixture:
  """Registers each language's text of a folder, for language modelling.

  Args:
    folder: Folder of `xx.{train,dev,test}.txt[.gz]` files.
    vocabulary: Vocabulary of the seqio tasks, see `register_mixture`.
    temperature: Sampling temperature, see `register_mixture`.
    cleaning: What to remove from the train parts; None for nothing.
  """
  from taskmoe_jax.data.seqio.registration import register_mixture

  return register_mixture(
    "text",
    _text_sources(folder, cleaning),
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix="text",
  )


def _text_sources(
  folder: str, cleaning: Cleaning | None
) -> "list[ParallelSource]":
  from taskmoe_jax.data.seqio.registration import cleaned_texts
  from taskmoe_jax.data.seqio.sources import ParallelSource

  sources = []
  for language, parts in _text_files(folder).items():
    texts = {
      part: functools.partial(open_lines, parts[part], columns=1, part=part)
      for part in FILE_PARTS
      if part in parts
    }
    pair = (language, language)
    sources.append(ParallelSource(*pair, cleaned_texts(pair, texts, cleaning)))
  return sources


def _text_files(folder: str) -> dict[str, dict[str, pathlib.Path]]:
  """Paths by language and part."""
  if not pathlib.Path(folder).is_dir():
    raise TaskMoeError(f"no folder {folder!r}. Set text.folder.")
  parts = {name: part for part, name in FILE_PARTS.items()}
  files: dict[str, dict[str, pathlib.Path]] = {}
  for path in sorted(pathlib.Path(folder).iterdir()):
    match = _TEXT_NAME.fullmatch(path.name)
    if not match:
      if re.search(r"\.(train|dev|test)\.|\.txt\.gz$", path.name) and (
        ".tsv" not in path.name and ".src" not in path.name
      ):
        raise TaskMoeError(
          f"{path}: a file of text is called xx.{{train,dev,test}}.txt[.gz]."
          " Rename it or take it out of the folder."
        )
      continue
    language, part = match[1], parts[match[2]]
    twin = files.setdefault(language, {}).setdefault(part, path)
    if twin != path:
      raise TaskMoeError(
        f"{path}: {twin.name} is the same part. Take one of them away."
      )
  if not files:
    raise TaskMoeError(
      f"the folder {folder!r} has no file called"
      " xx.{train,dev,test}.txt[.gz]. Set it to one that has."
    )
  return files

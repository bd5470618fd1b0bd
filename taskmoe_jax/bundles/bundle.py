"""A bundle: a folder with everything that translating one task takes.

  DIR/
    model.safetensors   parameters, named `decoder/blocks/layer_0/mlp/wi`, ...
    config.json         the model's config, the task space it serves, and how to
                        read weights that are rounded
    vocabulary.model    SentencePiece
    manifest.json       what it is, where from, how it was checked, checksums

The manifest comes last and the folder is renamed into place, so a folder with a
manifest is complete. Loading compares every checksum; `check_bundles` finds
what is damaged or missing, the files of other engines included.
"""

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Iterator
from typing import Any

import rich.console
from etils import epath
from flax import traverse_util
from jaxtyping import PyTree
from safetensors import SafetensorError
from safetensors import numpy as safetensors

from taskmoe_jax.bundles.arrays import WrittenArrays, write_arrays
from taskmoe_jax.bundles.manifest import FORMAT, Manifest
from taskmoe_jax.bundles.quantization import dequantize
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary

_MODEL = "model.safetensors"
_CONFIG = "config.json"
_VOCABULARY = "vocabulary.model"
_MANIFEST = "manifest.json"
_READ_AT_A_TIME = 2**24
_FILES = (_MODEL, _CONFIG, _VOCABULARY)


def is_bundle(path: epath.PathLike) -> bool:
  return (epath.Path(path) / _MANIFEST).exists()


@contextlib.contextmanager
def new_folder(
  folder: epath.PathLike, *, overwrite: bool
) -> Iterator[epath.Path]:
  """Gives a folder to write into, which becomes `folder` if all goes well.

  Raises:
    TaskMoeError: There is something already, and it may not be replaced.
  """
  target = epath.Path(folder)
  temporary = target.with_name(target.name + ".tmp")
  replaced = target.with_name(target.name + ".replaced.tmp")
  if replaced.exists() and not target.exists():
    # Killed between two renames: what was there is restored.
    replaced.rename(target)
  refuse_existing(folder, overwrite=overwrite)
  try:
    for left in (temporary, replaced):
      if left.exists():
        left.rmtree()
    temporary.mkdir(parents=True)
  except OSError as error:
    raise TaskMoeError(
      f"cannot write {str(target)!r} ({error.strerror}). Set --out to another"
      " folder."
    ) from None
  try:
    yield temporary
    if target.exists():
      target.rename(replaced)
    temporary.rename(target)
    if replaced.exists():
      replaced.rmtree()
  finally:
    if temporary.exists():
      temporary.rmtree()


def refuse_existing(folder: epath.PathLike, *, overwrite: bool) -> None:
  if epath.Path(folder).exists() and not overwrite:
    raise TaskMoeError(
      f"{str(folder)!r} exists and is left as it is. Set --out to another"
      " folder, or replace it with --overwrite."
    )


@dataclasses.dataclass(frozen=True)
class Content:
  """What a bundle holds, before it is written; a `Translator` has it too.

  Attributes:
    model: Its config.
    params: Its parameters. `LazyArray`s go from a checkpoint to its file.
    task_space: What it translates.
    vocabulary: Its own.
  """

  model: ModelConfig
  params: PyTree
  task_space: TaskSpace
  vocabulary: Vocabulary


def write_model(folder: epath.Path, content: Content | Translator) -> None:
  """Writes all of a bundle but the manifest."""
  params = traverse_util.flatten_dict(content.params, sep="/")
  write_arrays(folder / _MODEL, params)
  config = {
    "model": content.model.to_dict(),
    "task_space": content.task_space.to_dict(),
  }
  (folder / _CONFIG).write_text(json.dumps(config, indent=2))
  (folder / _VOCABULARY).write_bytes(content.vocabulary.model)


def write_manifest(folder: epath.Path, manifest: Manifest) -> None:
  """Writes the manifest, with the checksums of all other files.

  Those of a format are named with its folder: `ctranslate2/model.bin`.
  """
  names = [*_FILES, *(name for name in _files_in(folder) if "/" in name)]
  files = {name: checksum_of_file(folder / name) for name in names}
  manifest = dataclasses.replace(manifest, sha256=files)
  text = json.dumps(manifest.to_dict(), indent=2)
  write_whole(folder / _MANIFEST, text.encode())


def _files_in(folder: epath.Path) -> list[str]:
  """All files of a folder and of those in it, as `sub/name`."""
  found = []
  for path in sorted(folder.iterdir()):
    if path.name.endswith(".tmp"):
      continue
    if path.is_dir():
      found += [f"{path.name}/{name}" for name in _files_in(path)]
    else:
      found.append(path.name)
  return found


def read_manifest(folder: epath.PathLike) -> Manifest:
  """Reads what a bundle says about itself.

  Raises:
    TaskMoeError: It is not a bundle, it is damaged, or it is of another format.
  """
  path = epath.Path(folder) / _MANIFEST
  if not path.exists():
    raise TaskMoeError(
      f"{str(folder)!r} is not a bundle: it has no {_MANIFEST}. Name a folder"
      " that `taskmoe export` has written."
    )
  try:
    entries = json.loads(path.read_text())
  except ValueError as error:
    raise TaskMoeError(f"{str(path)!r} is damaged: {error}.") from None
  if not isinstance(entries, dict) or "sha256" not in entries:
    raise TaskMoeError(f"{str(path)!r} is damaged: it has no checksums.")
  if entries.get("format") != FORMAT:
    raise TaskMoeError(
      f"{str(folder)!r} is a bundle of format {entries.get('format')!r}:"
      f" accepted is {FORMAT}. Load it with the taskmoe_jax that wrote it, or"
      " export it again."
    )
  return Manifest.from_dict(entries)


def load_bundle(folder: epath.PathLike) -> Translator:
  """Loads a bundle, whole or not at all.

  Raises:
    TaskMoeError: A file is missing, or is not the one that was written.
  """
  manifest = read_manifest(folder)
  for name in _FILES:
    path = epath.Path(folder) / name
    if not path.exists():
      raise TaskMoeError(f"the bundle {str(folder)!r} lacks its file {name}.")
    found, written = checksum_of_file(path), manifest.sha256.get(name)
    if found != written:
      raise TaskMoeError(
        f"{str(path)!r} is damaged: its SHA-256 is {found[:12]}..., and the"
        f" manifest says {str(written)[:12]}.... Export it again."
      )
  return read_model(epath.Path(folder))


@contextlib.contextmanager
def opened_arrays(folder: epath.Path) -> Iterator[WrittenArrays]:
  """Opens a bundle's arrays, to be read one at a time."""
  with (folder / _MODEL).open("rb") as file:
    yield WrittenArrays(file)


def read_model(folder: epath.Path) -> Translator:
  """Reads a bundle's files without asking the manifest.

  Weights that were rounded are float32 again.
  """
  config = json.loads((folder / _CONFIG).read_text())
  return Translator(
    ModelConfig.from_dict(config["model"]),
    _read_params(folder / _MODEL, config.get("quantization")),
    TaskSpace.from_dict(config["task_space"]),
    Vocabulary.load(folder / _VOCABULARY),
  )


def _read_params(path: epath.Path, rounded: dict[str, Any] | None) -> PyTree:
  try:
    flat = safetensors.load(path.read_bytes())
  except SafetensorError as error:
    raise TaskMoeError(f"{str(path)!r} is damaged: {error}.") from None
  if rounded is not None:
    flat = dequantize(flat, rounded["arrays"])
  return traverse_util.unflatten_dict(flat, sep="/")


def checksum_of_file(path: epath.Path) -> str:
  """Its SHA-256; a file need not fit into memory."""
  found = hashlib.sha256()
  with path.open("rb") as file:
    while data := file.read(_READ_AT_A_TIME):
      found.update(data)
  return found.hexdigest()


def size_of(folder: epath.Path) -> int:
  """Bytes of all files of a folder, and of those in it."""
  return sum(
    size_of(path) if path.is_dir() else path.stat().length
    for path in folder.iterdir()
  )


def damages(folder: epath.PathLike) -> list[str]:
  """What of a bundle is not as it was written: a line for each file.

  Raises:
    TaskMoeError: It is not a bundle, or its manifest is damaged.
  """
  found = []
  for name, written in read_manifest(folder).sha256.items():
    path = epath.Path(folder) / name
    if not path.exists():
      found.append(f"{name} is missing")
    elif (read := checksum_of_file(path)) != written:
      found.append(
        f"{name} is damaged: its SHA-256 is {read[:12]}..., and the manifest"
        f" says {str(written)[:12]}..."
      )
  return found


def check_bundles(
  folder: epath.PathLike, *, console: rich.console.Console | None = None
) -> None:
  """Compares every file of a bundle, or of a folder's bundles; prints a line.

  Raises:
    TaskMoeError: Something is damaged or missing, or there is no bundle.
  """
  console = console or rich.console.Console()
  folders = _bundles(folder)
  damaged = 0
  for path in folders:
    try:
      found = damages(path)
      number = len(read_manifest(path).sha256)
    except TaskMoeError as error:
      found, number = [str(error)], 0
    damaged += bool(found)
    for line in found or [f"{number} files, all as they were written"]:
      console.print(
        f"{path.name}: {line}", highlight=False, markup=False, soft_wrap=True
      )
  if damaged:
    raise TaskMoeError(
      f"{damaged} of {len(folders)} bundles in {str(folder)!r} are damaged, as"
      " said above. Export them again, with --overwrite."
    )


def _bundles(folder: epath.PathLike) -> list[epath.Path]:
  path = epath.Path(folder).resolve()
  if is_bundle(path):
    return [path]
  found = []
  if path.is_dir():
    # What lacks its manifest has lost it; what is not finished is not a bundle.
    found = [
      entry
      for entry in sorted(path.iterdir())
      if entry.is_dir() and not entry.name.endswith(".tmp")
    ]
  if not any(map(is_bundle, found)):
    raise TaskMoeError(
      f"{str(folder)!r} holds no bundle. Set --bundle to a folder that"
      " `taskmoe export` has written: a bundle, or a folder of bundles."
    )
  return found

"""The folders of formats in a bundle: written, checked, described."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.export.formats.format import Expected, Format, formats_named
from taskmoe_jax.export.run_texts import samples_for


def write_formats(
  expected: Expected,
  folder: epath.Path,
  formats: Mapping[str, Format],
  about: About,
  *,
  advance: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
  """Writes and checks formats, each in a folder with its name.

  Args:
    expected: The bundle, with sentences to check with.
    folder: Where the bundle is being written.
    formats: By name; see `formats_named`.
    about: What the folders may tell their readers.
    advance: Told the name of each format before it is written.

  Returns:
    What a manifest says of each: its check, and its bytes.
  """
  described = {}
  for name, writer in formats.items():
    advance(name)
    place = folder / name
    place.mkdir()
    described[name] = _write(writer, expected, place, about)
  return described


def add_formats(
  folder: epath.PathLike,
  names: str,
  *,
  run_dir: epath.PathLike | None = None,
  overwrite: bool = False,
) -> dict[str, dict[str, Any]]:
  """Adds formats to a bundle that is there.

  A format gets its name when its check is done, and the manifest is written
  last: whenever this ends, the bundle can be loaded.

  Args:
    folder: The bundle.
    names: Comma-separated; see `formats_named`.
    run_dir: The run whose sentences it is checked with; the one that the bundle
      is from, unless given.
    overwrite: Whether formats that are there may be replaced.

  Returns:
    What the manifest now says of each.
  """
  folder = epath.Path(folder)
  writers = formats_named(names)
  manifest = bundle.read_manifest(folder)
  translator = bundle.load_bundle(folder)
  for name, writer in writers.items():
    bundle.refuse_existing(folder / name, overwrite=overwrite)
    writer.refuse(translator.model)
  expected = Expected(translator, samples_for(folder, manifest, run_dir))
  added = {}
  for name, writer in writers.items():
    with bundle.new_folder(folder / name, overwrite=overwrite) as place:
      added[name] = _write(writer, expected, place, manifest.about)
  formats = {**(manifest.formats or {}), **added}
  bundle.write_manifest(folder, manifest.with_entries(formats=formats))
  return added


def _write(
  writer: Format, expected: Expected, place: epath.Path, about: About
) -> dict[str, Any]:
  """Writes and checks one format; returns what a manifest says of it."""
  writer.write(expected.bundle, place, about)
  check = writer.check(expected, place)
  return {**dataclasses.asdict(check), "bytes": bundle.size_of(place)}

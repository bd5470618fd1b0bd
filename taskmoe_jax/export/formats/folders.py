"""The folders of formats in a bundle: written, checked, described."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export import bundle
from taskmoe_jax.export.describing import About
from taskmoe_jax.export.formats.format import Format, formats_named
from taskmoe_jax.export.run_texts import samples_for
from taskmoe_jax.export.verify import Samples


def write_formats(
  translator: Translator,
  folder: epath.Path,
  formats: Mapping[str, Format],
  about: About,
  samples: Samples,
  *,
  advance: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, Any]]:
  """Writes and checks formats, each in a folder with its name.

  Args:
    translator: The bundle.
    folder: Where the bundle is being written.
    formats: By name; see `formats_named`.
    about: What the folders may tell their readers.
    samples: Sentences with references to check with.
    advance: Told the name of each format before it is written.

  Returns:
    What a manifest says of each: its check, and its bytes.
  """
  described = {}
  for name, writer in formats.items():
    advance(name)
    place = folder / name
    place.mkdir()
    writer.write(translator, place, about)
    check = writer.check(translator, place, samples)
    described[name] = {
      **dataclasses.asdict(check),
      "bytes": bundle.size_of(place),
    }
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
  formats = formats_named(names)
  manifest = bundle.read_manifest(folder)
  translator = bundle.load_bundle(folder)
  for name, writer in formats.items():
    bundle.refuse_existing(folder / name, overwrite=overwrite)
    writer.refuse(translator.model)
  samples = samples_for(folder, manifest, run_dir)
  sizes = manifest["parameters"]
  source = manifest["source"]
  about = About(
    manifest["task"],
    source["run"],
    source["step"],
    (sizes["mixture"], sizes["bundle"]),
    manifest.get("scores", {}),
  )
  added = {}
  for name, writer in formats.items():
    with bundle.new_folder(folder / name, overwrite=overwrite) as place:
      writer.write(translator, place, about)
      check = writer.check(translator, place, samples)
      added[name] = {
        **dataclasses.asdict(check),
        "bytes": bundle.size_of(place),
      }
  manifest["formats"] = {**manifest.get("formats", {}), **added}
  del manifest["sha256"], manifest["format"]
  bundle.write_manifest(folder, manifest)
  return added

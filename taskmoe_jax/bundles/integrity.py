"""Finds what is damaged or missing in bundles, those of engines included."""

import rich.console
from etils import epath

from taskmoe_jax.bundles.bundle import (
  checksum_of_file,
  is_bundle,
  read_manifest,
)
from taskmoe_jax.errors import TaskMoeError


def damages(folder: epath.PathLike) -> list[str]:
  """What of a bundle is not as it was written: a line for each file.

  Raises:
    TaskMoeError: It is no bundle, or its manifest is damaged.
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
    # What lacks its manifest has lost it; what is not finished is no bundle.
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

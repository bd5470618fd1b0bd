"""Files that are whole or not there."""

from etils import epath


def write_whole(path: epath.Path, content: bytes) -> None:
  """Writes a file under a temporary name and renames it into place.

  Whoever is killed in between leaves the old file, never half a new one.
  """
  temporary = path.with_name(f"{path.name}.tmp")
  temporary.write_bytes(content)
  temporary.replace(path)

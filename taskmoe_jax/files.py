"""Files that are whole or not there."""

import contextlib

from etils import epath


def write_whole(path: epath.Path, content: bytes) -> None:
  """Writes a file under a temporary name and renames it into place.

  Whoever is killed in between leaves the old file, never half a new one; a
  failure leaves nothing else.
  """
  temporary = path.with_name(f"{path.name}.tmp")
  try:
    temporary.write_bytes(content)
    temporary.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      temporary.unlink()
    raise

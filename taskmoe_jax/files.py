"""Writing files atomically."""

import contextlib

from etils import epath


def write_whole(path: epath.Path, content: bytes) -> None:
  """Writes a file under a temporary name and renames it into place.

  A process killed meanwhile leaves the old file, never a partial new one; a
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

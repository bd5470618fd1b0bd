"""Pictures, read back pixel by pixel."""

import struct
import zlib

import numpy as np

from taskmoe_jax.train.metrics.tensorboard import CELL, heat_map


def _pixels(data):
  """Reads the chunks of a PNG without filters; checks their sums."""
  assert data.startswith(b"\x89PNG\r\n\x1a\n")
  chunks, place = {}, 8
  while place < len(data):
    (length,) = struct.unpack_from(">I", data, place)
    body = data[place + 4 : place + 8 + length]
    (check,) = struct.unpack_from(">I", data, place + 8 + length)
    assert check == zlib.crc32(body)
    chunks[body[:4]] = body[4:]
    place += 12 + length
  assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
  width, height, *kind = struct.unpack(">2I5B", chunks[b"IHDR"])
  assert kind == [8, 2, 0, 0, 0]
  rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8)
  rows = rows.reshape(height, 1 + 3 * width)
  assert not rows[:, 0].any()
  return rows[:, 1:].reshape(height, width, 3).astype(int)


def test_colors():
  """From the darkest to the brightest, past the middle one."""
  matrix = np.array([[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]])
  data = heat_map(matrix, largest=1.0)
  pixels = _pixels(data)
  assert pixels.shape == (2 * CELL, 3 * CELL, 3)
  cells = pixels[::CELL, ::CELL]
  dark, bright = [68, 1, 84], [253, 231, 36]
  assert cells[0, 0].tolist() == cells[1, 1].tolist() == dark
  assert cells[0, 2].tolist() == cells[1, 0].tolist() == bright
  # Viridis grows brighter all the way.
  brightness = cells[[0, 1, 0, 0], [0, 2, 1, 2]].sum(-1)
  assert (np.diff(brightness) > 0).all()
  # The middle of viridis, as matplotlib has it.
  np.testing.assert_allclose(cells[0, 1], [32, 144, 140], atol=2)
  np.testing.assert_array_equal(
    pixels, cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
  )

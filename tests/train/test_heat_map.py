"""Pictures, read back pixel by pixel."""

import struct
import zlib

import numpy as np

from taskmoe_jax.train.heat_map import heat_map, png


def test_colours():
  """From the darkest to the brightest, past the middle one."""
  pixels = heat_map(np.array([[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]]), largest=1.0)
  assert pixels.shape == (16, 24, 3)
  dark, middle, bright = (68, 1, 84), (33, 145, 140), (253, 231, 37)
  cells = pixels[::8, ::8]
  assert cells[0].tolist() == [list(c) for c in (dark, middle, bright)]
  assert cells[1].tolist() == [list(bright), list(dark), [59, 82, 139]]
  np.testing.assert_array_equal(
    pixels, cells.repeat(8, axis=0).repeat(8, axis=1)
  )


def test_png():
  """Chunk after chunk: length, name, data, checksum."""
  pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
  data = png(pixels)
  assert data[:8] == bytes([137, 80, 78, 71, 13, 10, 26, 10])
  chunks, position = {}, 8
  while position < len(data):
    (length,) = struct.unpack(">I", data[position : position + 4])
    name = data[position + 4 : position + 8]
    content = data[position + 8 : position + 8 + length]
    end = position + 8 + length
    assert int.from_bytes(data[end : end + 4]) == zlib.crc32(name + content)
    chunks[name] = content
    position = end + 4
  assert list(chunks) == [b"IHDR", b"IDAT", b"IEND"]
  # Width, height, 8 bits, colours, and three methods of which there is one.
  assert chunks[b"IHDR"] == struct.pack(">IIBBBBB", 3, 2, 8, 2, 0, 0, 0)
  lines = zlib.decompress(chunks[b"IDAT"])
  assert lines == b"\0" + bytes(range(9)) + b"\0" + bytes(range(9, 18))

"""Matrices as pictures, for TensorBoard."""

import struct
import zlib

import numpy as np
from jaxtyping import Float, UInt8

# Dark for 0, bright for the largest value: five colours of viridis.
_COLOURS = np.array(
  [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]
)
# Pixels of a cell, so that sixteen tasks are no postage stamp.
_CELL = 8


def heat_map(
  matrix: Float[np.ndarray, "rows columns"], *, largest: float
) -> UInt8[np.ndarray, "height width 3"]:
  """Colours each cell by its value, from 0 to `largest`."""
  parts = np.clip(matrix / largest, 0, 1) * (len(_COLOURS) - 1)
  channels = [
    np.interp(parts, np.arange(len(_COLOURS)), channel)
    for channel in _COLOURS.T
  ]
  pixels = np.stack(channels, axis=-1).round().astype(np.uint8)
  return pixels.repeat(_CELL, axis=0).repeat(_CELL, axis=1)


def png(pixels: UInt8[np.ndarray, "height width 3"]) -> bytes:
  """Encodes a picture; the format needs no library when nothing is filtered."""
  height, width, _ = pixels.shape
  # Each line begins with the filter's number, and 0 is none.
  lines = np.zeros((height, 1 + 3 * width), np.uint8)
  lines[:, 1:] = pixels.reshape(height, -1)
  header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + b"".join(
    _chunk(name, data)
    for name, data in (
      (b"IHDR", header),
      (b"IDAT", zlib.compress(lines.tobytes())),
      (b"IEND", b""),
    )
  )


def _chunk(name: bytes, data: bytes) -> bytes:
  checksum = zlib.crc32(name + data)
  return struct.pack(">I", len(data)) + name + data + checksum.to_bytes(4)

"""Metrics as TensorBoard shows them."""

import functools
import struct
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorboardX
from etils import epath
from jaxtyping import Float, UInt8
from tensorboardX.proto.summary_pb2 import Summary

from taskmoe_jax.train.metrics.metric_writer import Sink, Value
from taskmoe_jax.train.step.gradient_statistics import Histogram

# Pixels of a cell, so that sixteen tasks can be told apart.
CELL = 8
# Viridis of matplotlib at 33 places, evenly spaced: red, green, blue.
_VIRIDIS = bytes.fromhex(
  "440154460c5f47186a482273472c7b4536814240853e49893a528b365a8c32628d"
  "2f6a8d2c728e287a8e26818e23898d20908c1e978a1e9e8821a68527ad8030b47a"
  "3dbb744bc26c5bc8626dce5881d34c95d73faadb32bfdf24d4e11ae9e419fde724"
)


def heat_map(
  matrix: Float[np.ndarray, "rows columns"], *, largest: float
) -> bytes:
  """Draws a PNG in which each cell is dark for 0 and bright for `largest`."""
  colors = np.frombuffer(_VIRIDIS, np.uint8).reshape(-1, 3)
  shares = np.clip(np.nan_to_num(matrix / largest), 0.0, 1.0)
  places = np.linspace(0.0, 1.0, len(colors))
  cells = np.stack(
    [np.interp(shares, places, color) for color in colors.T], axis=-1
  )
  pixels = cells.round().astype(np.uint8)
  return _png(pixels.repeat(CELL, axis=0).repeat(CELL, axis=1))


def _png(pixels: UInt8[np.ndarray, "rows columns 3"]) -> bytes:
  """A PNG file of these pixels; rows of it begin with 0, for no filter."""
  height, width, _ = pixels.shape

  def chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

  rows = b"".join(b"\0" + row.tobytes() for row in pixels)
  # Eight bits a color, red, green and blue.
  header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
  return (
    b"\x89PNG\r\n\x1a\n"
    + chunk(b"IHDR", header)
    + chunk(b"IDAT", zlib.compress(rows))
    + chunk(b"IEND", b"")
  )


class TensorBoard(Sink):
  """Scalars, histograms, and pictures of matrices.

  An array, such as the load of every expert, is a histogram: one plot for 4
  experts or for 128, in which a dead expert is a count at zero.

  When a run resumes, TensorBoard is told to hide what was reported of the steps
  that are repeated.

  tensorboardX writes in a thread, which would end at its first error, and the
  run would then wait for it for ever. So an error there, as on a full disk, is
  kept, and raised by the next report.
  """

  def __init__(self, folder: epath.PathLike, *, resume_step: int = 0):
    """Begins a file of events.

    Args:
      folder: Where to write, such as `RUN_DIR/tensorboard`.
      resume_step: The step of the checkpoint that the run starts from.
    """
    # TensorBoard hides the purged step itself too, hence the next one.
    self._writer = tensorboardX.SummaryWriter(
      str(folder), purge_step=resume_step + 1
    )
    self._failed: OSError | None = None
    events = self._writer.file_writer.event_writer._ev_writer
    for name in ("write_event", "flush", "close"):
      setattr(
        events, name, functools.partial(self._keeping, getattr(events, name))
      )

  def _keeping(self, write: Callable[..., Any], *arguments: Any) -> None:
    """Writes, unless that has failed before; the writer's thread continues."""
    if self._failed is None:
      try:
        write(*arguments)
      except OSError as error:
        self._failed = error

  def _check(self) -> None:
    if self._failed is not None:
      raise self._failed

  def write(
    self, step: int, values: Mapping[str, Value], *, now: float
  ) -> None:
    self._check()
    for name, value in values.items():
      if isinstance(value, Histogram):
        self._writer.add_histogram_raw(
          name, **value.raw(), global_step=step, walltime=now
        )
      elif value.ndim == 0:
        self._writer.add_scalar(name, float(value), step, walltime=now)
      elif value.ndim == 2:
        self._add_picture(name, value, step, now)
      elif np.isfinite(value).all() and value.size:
        # A histogram cannot hold other values; the line of JSON has them.
        self._writer.add_histogram(
          name, value.astype(np.float32), step, walltime=now
        )

  def _add_picture(
    self, name: str, matrix: Float[np.ndarray, "_ _"], step: int, now: float
  ) -> None:
    """A heat map of shares."""
    rows, columns = matrix.shape
    image = Summary.Image(
      height=CELL * rows,
      width=CELL * columns,
      colorspace=3,  # red, green, blue
      encoded_image_string=heat_map(matrix, largest=1.0),
    )
    self._writer.file_writer.add_summary(
      Summary(value=[Summary.Value(tag=name, image=image)]), step, now
    )

  def close(self) -> None:
    self._writer.close()
    # If the run is ending with an error, that is the one to be read.
    if sys.exception() is None:
      self._check()

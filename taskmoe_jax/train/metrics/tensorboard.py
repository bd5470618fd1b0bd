"""Metrics as TensorBoard shows them."""

import functools
import io
import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorboardX
from etils import epath
from jaxtyping import Float
from tensorboardX.proto.summary_pb2 import Summary

from taskmoe_jax.train.metrics.metric_writer import Sink, Value
from taskmoe_jax.train.step.gradient_statistics import Histogram

# Pixels of a cell, so that sixteen tasks are no postage stamp.
CELL = 8


def heat_map(
  matrix: Float[np.ndarray, "rows columns"], *, largest: float
) -> bytes:
  """Draws a PNG in which each cell is dark for 0 and bright for `largest`."""
  # Imported here, since only runs that log a matrix should wait for it.
  from matplotlib import image

  cells = matrix.repeat(CELL, axis=0).repeat(CELL, axis=1)
  file = io.BytesIO()
  image.imsave(
    file, cells, vmin=0.0, vmax=largest, cmap="viridis", format="png"
  )
  return file.getvalue()


class TensorBoard(Sink):
  """Scalars, histograms, and pictures of matrices.

  An array, such as the load of every expert, is a histogram: one plot for 4
  experts or for 128, in which a dead expert stands at zero.

  When a run goes on, TensorBoard is told to hide what was reported of the steps
  that come a second time.

  tensorboardX writes in a thread, which would end at its first error, and the
  run would then wait for it for ever. So what fails there, as on a full disk,
  is kept, and raised by the next report.
  """

  def __init__(self, folder: epath.PathLike, *, resume_step: int = 0):
    """Begins a file of events.

    Args:
      folder: Such as `RUN_DIR/tensorboard`.
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
    """Writes, unless that has failed before; the writer's thread goes on."""
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
      colorspace=4,  # red, green, blue and opacity
      encoded_image_string=heat_map(matrix, largest=1.0),
    )
    self._writer.file_writer.add_summary(
      Summary(value=[Summary.Value(tag=name, image=image)]), step, now
    )

  def close(self) -> None:
    self._writer.close()
    # What has ended the run, if anything has, is what is to be read.
    if sys.exception() is None:
      self._check()

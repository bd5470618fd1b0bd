"""Matrices as pictures, for TensorBoard."""

import io

import numpy as np
from jaxtyping import Float

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

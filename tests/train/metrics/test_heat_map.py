"""Pictures, read back pixel by pixel."""

import io

import numpy as np
from matplotlib import image

from taskmoe_jax.train.metrics.tensorboard import CELL, heat_map


def test_colours():
  """From the darkest to the brightest, past the middle one."""
  matrix = np.array([[0.0, 0.5, 1.0], [2.0, -1.0, 0.25]])
  data = heat_map(matrix, largest=1.0)
  assert data.startswith(b"\x89PNG")
  pixels = (255 * image.imread(io.BytesIO(data), format="png")).round()
  pixels = pixels[..., :3].astype(int)
  assert pixels.shape == (2 * CELL, 3 * CELL, 3)
  cells = pixels[::CELL, ::CELL]
  dark, bright = [68, 1, 84], [253, 231, 36]
  assert cells[0, 0].tolist() == cells[1, 1].tolist() == dark
  assert cells[0, 2].tolist() == cells[1, 0].tolist() == bright
  # Viridis grows brighter all the way.
  brightness = cells[[0, 1, 0, 0], [0, 2, 1, 2]].sum(-1)
  assert (np.diff(brightness) > 0).all()
  np.testing.assert_array_equal(
    pixels, cells.repeat(CELL, axis=0).repeat(CELL, axis=1)
  )

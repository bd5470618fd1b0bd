"""Metrics for Weights & Biases, if it is installed and asked for."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.train.metrics.metric_writer import Sink, Value
from taskmoe_jax.train.step.gradient_statistics import Histogram


class WeightsAndBiases(Sink):
  """One run of Weights & Biases for one run directory.

  Its id is kept in `RUN_DIR/wandb_id.txt`, so that a run that resumes is the
  same one there too. Weights & Biases accepts no step twice: of steps that are
  repeated, it keeps the first report.
  """

  def __init__(
    self, run_dir: epath.PathLike, *, project: str, config: Mapping[str, Any]
  ):
    """Starts or resumes a run.

    Args:
      run_dir: The run directory.
      project: The project of Weights & Biases.
      config: Settings that it shows beside the run.

    Raises:
      TaskMoeError: Weights & Biases is not installed.
    """
    try:
      self._wandb = importlib.import_module("wandb")
    except ImportError:
      raise TaskMoeError(
        f"WANDB_PROJECT={project!r} needs Weights & Biases, which is not"
        " installed: `pip install wandb`, or set WANDB_PROJECT to None."
      ) from None
    folder = epath.Path(run_dir)
    path = folder / "wandb_id.txt"
    if not path.exists():
      write_whole(path, self._wandb.util.generate_id().encode())
    self._run = self._wandb.init(
      project=project,
      id=path.read_text().strip(),
      name=folder.name,
      config=dict(config),
      resume="allow",
    )

  def write(
    self, step: int, values: Mapping[str, Value], *, now: float
  ) -> None:
    del now  # It has its own clock.
    self._run.log(
      {name: self._converted(value) for name, value in values.items()},
      step=step,
    )

  def _converted(self, value: Value) -> Any:
    if isinstance(value, Histogram):
      counts, edges = np.asarray(value.counts), np.asarray(value.edges)
      return self._wandb.Histogram(np_histogram=(counts, edges))
    if value.ndim == 0:
      return value.item()
    if value.ndim == 1:
      return self._wandb.Histogram(np_histogram=np.histogram(value, bins=32))
    return self._wandb.Image(value)

  def close(self) -> None:
    self._run.finish()

"""Multilingual translation with task-level Mixture-of-Experts, on TPU pods."""

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from taskmoe_jax.decoding.translator import Translator

# The only place that has it: setup.py reads it here.
__version__ = "0.1.0"


def load(path: str | os.PathLike) -> "Translator":
  """Loads a bundle, or the newest checkpoint of a run directory.

    taskmoe_jax.load("runs/demo/export-900/de").translate(["3 hours"])

  TensorFlow is not needed; for a bundle, neither are Orbax and TensorStore.

  Raises:
    TaskMoeError: The path is neither, or is damaged.
  """
  # Imported here, so that `import taskmoe_jax` does not load JAX, and a bundle
  # loads neither Orbax nor TensorStore, which read checkpoints.
  from taskmoe_jax.bundles.bundle import is_bundle, load_bundle

  if is_bundle(path):
    return load_bundle(path)

  from taskmoe_jax.errors import TaskMoeError
  from taskmoe_jax.runs.directory import is_run_directory
  from taskmoe_jax.runs.restoring import load_translator

  if is_run_directory(path):
    return load_translator(path)[0]
  raise TaskMoeError(
    f"{str(path)!r} is neither a bundle (it has no manifest.json) nor a run"
    " directory (no run.json). Name a folder that `taskmoe export` or `taskmoe"
    " train` has written."
  )

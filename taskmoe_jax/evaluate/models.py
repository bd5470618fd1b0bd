"""What is evaluated: a run directory or a bundle."""

import dataclasses
import hashlib
import json
from typing import Any

from etils import epath

from taskmoe_jax.bundles.bundle import load_bundle, read_manifest
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.partitioning.meshes import MeshShape
from taskmoe_jax.runs.checkpoint_folders import checkpoints_folder
from taskmoe_jax.runs.checkpoint_items import read_contents
from taskmoe_jax.runs.directory import load_run
from taskmoe_jax.runs.restoring import load_translator


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """A model with its name.

  Attributes:
    translator: The model.
    folder: The run directory or the bundle.
    step: Training steps behind its parameters.
    fingerprint: Other parameters have another, wherever they lie. It stands
      beside every translation, so that none is taken for that of another model.
  """

  translator: Translator
  folder: epath.Path
  step: int
  fingerprint: str


def load_evaluated(
  *,
  run_dir: epath.PathLike | None,
  bundle: epath.PathLike | None,
  step: int | None,
  mesh: MeshShape | None,
) -> Evaluated:
  """Loads the bundle, or the run if no bundle is named.

  Args:
    run_dir: A run directory.
    bundle: A folder that `taskmoe export` wrote.
    step: Which checkpoint of the run; the newest unless given.
    mesh: How the run's parameters are laid over the devices.
  """
  if bundle is not None:
    manifest = read_manifest(bundle)
    return Evaluated(
      load_bundle(bundle),
      epath.Path(bundle),
      manifest.source.step,
      fingerprint_of(manifest.sha256),
    )
  translator, step = load_translator(run_dir, step=step, mesh=mesh)
  folder = epath.Path(run_dir)
  contents = read_contents(checkpoints_folder(run_dir) / str(step))
  return Evaluated(
    translator,
    folder,
    step,
    fingerprint_of(
      # Checksums of the parameters.
      [load_run(run_dir).description(), contents["params"]]
    ),
  )


def fingerprint_of(value: Any) -> str:
  """A checksum of what JSON can hold."""
  text = json.dumps(value, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode()).hexdigest()

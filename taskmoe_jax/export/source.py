"""What an export reads its bundles from, and compares them with."""

import dataclasses
from collections.abc import Mapping

import jax
import rich.progress
from etils import epath
from jaxtyping import PyTree

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export import bundle
from taskmoe_jax.export.checking import CheckBy
from taskmoe_jax.export.extract import SelectedExperts
from taskmoe_jax.export.slices import (
  SliceCheck,
  Sums,
  sums_of_checkpoint,
  verify_slices,
)
from taskmoe_jax.export.stored import read_stored
from taskmoe_jax.export.verify import Check, Samples, verify
from taskmoe_jax.train.checkpoint_folders import checkpoint_folder
from taskmoe_jax.train.restoring import load_translator
from taskmoe_jax.train.run_directory import Run


@dataclasses.dataclass(frozen=True)
class Source:
  """What is exported from.

  Attributes:
    run: Model, tasks and vocabulary.
    run_dir: Its directory.
    step: Of the checkpoint.
    params: Of the mixture: in memory, or experts as they are stored.
    sums: Of the checkpoint, if bundles are compared with it number by number.
  """

  run: Run | Translator
  run_dir: str
  step: int
  params: PyTree
  sums: Sums | None

  @property
  def checked_by(self) -> str:
    return str(CheckBy.MIXTURE if self.sums is None else CheckBy.SLICES)


def read_source(
  run: Run,
  run_dir: epath.PathLike,
  step: int,
  how: CheckBy,
  progress: rich.progress.Progress,
) -> Source:
  """Reads the checkpoint once for all bundles, what is shared and the rest."""
  if how is CheckBy.MIXTURE:
    mixture, step = load_translator(run_dir, step=step)
    return Source(mixture, str(run_dir), step, mixture.params, None)
  folder, step = checkpoint_folder(run_dir, step)
  params = read_stored(folder, run.model, run.task_space)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  bar = progress.add_task("comparing the checkpoint's checksums", total=size)
  sums = sums_of_checkpoint(
    params, folder, advance=lambda done: progress.advance(bar, done)
  )
  return Source(run, str(run_dir), step, params, sums)


def check_bundle(
  source: Source,
  folder: epath.Path,
  task_ids: tuple[int, ...],
  selected: Mapping[str, SelectedExperts],
  samples: Samples,
) -> Check | SliceCheck:
  """Compares what was written with the mixture, or with its checkpoint."""
  if source.sums is None:
    return verify(source.run, bundle.read_model(folder), samples)
  return verify_slices(
    folder, source.params, source.run.model, task_ids, selected, source.sums
  )

"""The checkpoint that an export reads, and how bundles are compared with it."""

import dataclasses
import enum
from collections.abc import Mapping

import jax
import rich.console
import rich.progress
from etils import epath
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.bundles import bundle
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import as_member
from taskmoe_jax.export.selection import SelectedExperts
from taskmoe_jax.export.slice_check import (
  NumberCheck,
  Sums,
  compare_numbers,
  sums_of_checkpoint,
)
from taskmoe_jax.export.verify import Check, Samples, verify
from taskmoe_jax.hosts.memory import available_memory
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.runs.checkpoint_folders import checkpoint_folder
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.runs.lazy_arrays import read_lazy_params
from taskmoe_jax.runs.restoring import load_translator
from taskmoe_jax.task_space import TaskSpace

# Bytes of memory that comparing takes for each byte of the mixture: its
# parameters, its decoder once more, block by block, and what is read of the
# checkpoint.
_MEMORY_FACTOR = 2.5


class CheckBy(enum.StrEnum):
  """How a bundle is compared with the mixture that it is from.

  `mixture`: the whole model is in memory and translates beside the bundle.
  `slices`: numbers are compared with the checkpoint's, see `slice_check`.
  `auto`: `mixture` if it fits into memory, else `slices`.
  """

  AUTO = "auto"
  MIXTURE = "mixture"
  SLICES = "slices"


def choose_check(
  check: CheckBy | str,
  model: ModelConfig,
  task_space: TaskSpace,
  console: rich.console.Console,
) -> CheckBy:
  """Decides for `auto`, and prints why if it is not `mixture`."""
  chosen = as_member(CheckBy, "check", check, "--check")
  if chosen is not CheckBy.AUTO:
    return chosen
  shapes = nn.unbox(
    parameters.abstract_params(Transformer(model, len(task_space.tasks)))
  )
  size = sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
  )
  available = available_memory()
  if available is None or size * _MEMORY_FACTOR <= available:
    return CheckBy.MIXTURE
  console.print(
    f"the mixture has {size / 2**30:.1f} GiB of parameters, and"
    f" {available / 2**30:.1f} GiB of memory are free: bundles are compared"
    " with the checkpoint number by number (--check=slices), and nothing is"
    " translated",
    highlight=False,
    soft_wrap=True,
  )
  return CheckBy.SLICES


@dataclasses.dataclass(frozen=True)
class LoadedCheckpoint:
  """The checkpoint that bundles are made of.

  Attributes:
    run: Model, tasks and vocabulary; a translator if all is in memory.
    run_dir: The run's directory.
    step: The checkpoint's step.
    params: The mixture's parameters: in memory, or experts as `LazyArray`s.
    sums: Checksums; empty unless bundles are compared with the checkpoint
      number by number.
  """

  run: Run | Translator
  run_dir: str
  step: int
  params: PyTree
  sums: Sums

  @property
  def checked_by(self) -> str:
    return str(
      CheckBy.MIXTURE if isinstance(self.run, Translator) else CheckBy.SLICES
    )


def read_checkpoint(
  run: Run,
  run_dir: epath.PathLike,
  step: int,
  how: CheckBy,
  progress: rich.progress.Progress,
) -> LoadedCheckpoint:
  """Reads the checkpoint once for all bundles, what is shared and the rest."""
  if how is CheckBy.MIXTURE:
    mixture, step = load_translator(run_dir, step=step)
    return LoadedCheckpoint(mixture, str(run_dir), step, mixture.params, {})
  folder, step = checkpoint_folder(run_dir, step)
  params = read_lazy_params(folder, run.model, run.task_space)
  size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
  bar = progress.add_task("comparing the checkpoint's checksums", total=size)
  sums = sums_of_checkpoint(
    params, folder, advance=lambda done: progress.advance(bar, done)
  )
  return LoadedCheckpoint(run, str(run_dir), step, params, sums)


def check_bundle(
  checkpoint: LoadedCheckpoint,
  folder: epath.Path,
  task_ids: tuple[int, ...],
  selected: Mapping[str, SelectedExperts],
  samples: Samples,
) -> Check | NumberCheck:
  """Compares what was written with the mixture, or with its checkpoint."""
  if isinstance(checkpoint.run, Translator):
    return verify(checkpoint.run, bundle.read_model(folder), samples)
  return compare_numbers(
    folder,
    checkpoint.params,
    checkpoint.run.model,
    task_ids,
    selected,
    checkpoint.sums,
  )

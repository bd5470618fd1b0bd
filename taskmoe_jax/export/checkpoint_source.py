"""What an export reads its bundles from, and compares them with."""

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
from taskmoe_jax.export.extract import SelectedExperts
from taskmoe_jax.export.slice_check import (
  SliceCheck,
  Sums,
  sums_of_checkpoint,
  verify_slices,
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

# Bytes that comparing takes for each of the mixture's: its parameters, its
# decoder once more, block by block, and what is read of the checkpoint.
_ROOM = 2.5


class CheckBy(enum.StrEnum):
  """How a bundle is compared with the mixture that it is from.

  `mixture`: the whole model is in memory and translates beside the bundle.
  `slices`: numbers are compared with the checkpoint's, see `slices`.
  `auto`: the first if there is room for it, else the second.
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
  """Decides for `auto`, and prints why if that is not as usual."""
  check = as_member(CheckBy, "check", check, "--check")
  if check is not CheckBy.AUTO:
    return check
  shapes = nn.unbox(
    parameters.abstract_params(Transformer(model, len(task_space.tasks)))
  )
  size = sum(
    leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes)
  )
  room = available_memory()
  if room is None or size * _ROOM <= room:
    return CheckBy.MIXTURE
  console.print(
    f"the mixture has {size / 2**30:.1f} GiB of parameters, and"
    f" {room / 2**30:.1f} GiB of memory are free: bundles are compared with the"
    " checkpoint number by number (--check=slices), and nothing is translated",
    highlight=False,
    soft_wrap=True,
  )
  return CheckBy.SLICES


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
  params = read_lazy_params(folder, run.model, run.task_space)
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

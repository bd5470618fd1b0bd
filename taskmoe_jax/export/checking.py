"""Which way a bundle is compared with its mixture."""

import enum

import jax
import rich.console
from flax import linen as nn

from taskmoe_jax.errors import as_member
from taskmoe_jax.host_memory import available_memory
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train import state as train_state

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
    train_state.abstract_params(Transformer(model, len(task_space.tasks)))
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

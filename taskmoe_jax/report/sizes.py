"""How large sub-networks are, known from the config alone."""

import dataclasses

from taskmoe_jax.export.extract import reduced_config, stacks_routed_by_task
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.train.state import abstract_params, parameter_count

FLOAT32_BYTES = 4


@dataclasses.dataclass(frozen=True)
class Sizes:
  """Numbers of parameters.

  Attributes:
    mixture: Of the whole model.
    sub_network: Of one task's, which is as large as any other's; None if the
      task decides on no expert.
    stacks: Of encoder and decoder: the whole one and the sub-network's.
  """

  mixture: int
  sub_network: int | None
  stacks: dict[str, tuple[int, int]]


def sizes_of(model: ModelConfig, num_tasks: int) -> Sizes:
  """Counts parameters without making any.

  Args:
    model: Of the mixture.
    num_tasks: R, of its task space.
  """
  small = sub_network_config(model)
  whole = abstract_params(Transformer(model, num_tasks))
  kept = abstract_params(Transformer(small, 1))
  return Sizes(
    parameter_count(whole),
    None if small == model else parameter_count(kept),
    {
      name: (parameter_count(whole[name]), parameter_count(kept[name]))
      for name in ("encoder", "decoder")
    },
  )


def sub_network_config(model: ModelConfig) -> ModelConfig:
  """The config of what `export.extract` makes; the same if it refuses to."""
  reduced = {
    name: reduced_config(stack)
    for name, stack in stacks_routed_by_task(model).items()
  }
  return dataclasses.replace(model, **reduced)

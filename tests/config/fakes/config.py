"""What the gin files of these tests build: a small copy of models/config."""

import dataclasses

from taskmoe_jax.errors import TaskMoeError

LIMIT = 9


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeConfig:
  granularity: str
  num_experts: int
  dropout_rate: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
  num_layers: int
  mlp_dims: tuple[int, ...]
  moe: MoeConfig | None = None

  def __post_init__(self):
    if self.num_layers > LIMIT:
      raise TaskMoeError(
        f"num_layers={self.num_layers} is over {LIMIT}. Set"
        " StackConfig.num_layers."
      )


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  encoder: StackConfig
  decoder: StackConfig
  embed_dim: int

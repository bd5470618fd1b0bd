"""The config of a model; plain data, saved with every checkpoint."""

import dataclasses
import enum
from collections.abc import Mapping, Sequence
from typing import Any

from taskmoe_jax.errors import (
  TaskMoeError,
  as_members,
  check_at_least,
  check_members,
)
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.moe.granularity import Granularity


class Embeddings(enum.StrEnum):
  """How many vocabulary tables there are.

  One table for encoder, decoder and softmax is our default, because the engines
  that serve sub-networks are sure to have it right. The paper's parameter
  counts imply three.
  """

  ONE = "one"
  THREE = "three"


class ComputeDtype(enum.StrEnum):
  """What layers compute in. Parameters and routing are always float32."""

  FLOAT32 = "float32"
  BFLOAT16 = "bfloat16"


class Rematerialize(enum.StrEnum):
  """What a block recomputes in the backward pass rather than stores.

  The less is stored the larger a batch fits, at up to a third more FLOPs.
  """

  NONE = "none"  # nothing
  ALL_BUT_PRODUCTS = "all_but_products"  # keeps products with weights
  FULL = "full"  # keeps each block's input alone


@dataclasses.dataclass(frozen=True, kw_only=True)
class StackConfig:
  """An encoder or decoder: a block of a few layers, repeated.

  Blocks are what is scanned, so a block is the shortest repeating pattern: one
  layer in a dense model; a dense layer and an MoE layer where MoE replaces the
  feed-forward of every second one; and after extraction the widths (F, K·F).

  Attributes:
    num_layers: Layers in all, a multiple of the block's.
    mlp_dims: Widths of the block's dense feed-forward layers, in order.
    moe: The block's last layer, if it is an MoE layer.
  """

  num_layers: int
  mlp_dims: Sequence[int]
  moe: MoeConfig | None = None

  def __post_init__(self):
    object.__setattr__(self, "mlp_dims", tuple(self.mlp_dims))
    check_at_least(1, "StackConfig", num_layers=self.num_layers)
    for width in self.mlp_dims:
      check_at_least(1, "StackConfig", mlp_dims=width)
    if self.block_size == 0 or self.num_layers % self.block_size:
      raise TaskMoeError(
        f"num_layers={self.num_layers} is not a multiple of the block's"
        f" {self.block_size} layers (mlp_dims={self.mlp_dims}"
        f"{' and one MoE layer' if self.moe else ''}). Set"
        " StackConfig.num_layers or StackConfig.mlp_dims."
      )

  @property
  def block_size(self) -> int:
    return len(self.mlp_dims) + (self.moe is not None)

  @property
  def num_blocks(self) -> int:
    return self.num_layers // self.block_size

  @property
  def moe_layers(self) -> range:
    """Indices of the MoE layers, counted from 0; none in a dense stack."""
    first = self.block_size - 1 if self.moe else self.num_layers
    return range(first, self.num_layers, self.block_size)

  @property
  def moe_layer(self) -> str:
    """The name of a block's MoE layer, its last, in paths of parameters."""
    return f"layer_{self.block_size - 1}"

  def require_moe(self) -> MoeConfig:
    """The config of the MoE layers, where the caller knows there are some."""
    assert self.moe is not None, "a dense stack has no MoE layers"
    return self.moe


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
  """An encoder-decoder Transformer in T5's shape (docs/design/engines.md).

  Attributes:
    vocab_size: V, at least the vocabulary's size.
    embed_dim: D.
    num_heads: N.
    head_dim: H.
    activation: The activation of every feed-forward network.
    embeddings: How many vocabulary tables there are.
    encoder: The encoder's layers.
    decoder: The decoder's layers.
    dropout_rate: Dropout on embeddings, on attention weights, inside dense
      feed-forward networks and on what each layer adds; the paper states none
      for WMT.
    dtype: What layers compute in.
    rematerialize: What training recomputes, to save memory.
  """

  vocab_size: int
  embed_dim: int
  num_heads: int
  head_dim: int
  activation: Activation
  embeddings: Embeddings
  encoder: StackConfig
  decoder: StackConfig
  dropout_rate: float = 0.0
  dtype: ComputeDtype = ComputeDtype.FLOAT32
  rematerialize: Rematerialize = Rematerialize.NONE

  def __post_init__(self):
    check_members(
      "ModelConfig",
      activation=(Activation, self.activation),
      embeddings=(Embeddings, self.embeddings),
      dtype=(ComputeDtype, self.dtype),
      rematerialize=(Rematerialize, self.rematerialize),
    )
    check_at_least(
      1,
      "ModelConfig",
      vocab_size=self.vocab_size,
      embed_dim=self.embed_dim,
      num_heads=self.num_heads,
      head_dim=self.head_dim,
    )
    if not 0.0 <= self.dropout_rate < 1.0:
      raise TaskMoeError(
        f"dropout_rate={self.dropout_rate} is outside [0, 1). Set"
        " ModelConfig.dropout_rate."
      )

  def to_dict(self) -> dict[str, Any]:
    """JSON-able values, read back by `from_dict`."""
    return _plain(self)

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> "ModelConfig":
    """Reads what `to_dict` gives; stacks may be `StackConfig`s."""
    values = as_members(
      {
        "activation": Activation,
        "embeddings": Embeddings,
        "dtype": ComputeDtype,
        "rematerialize": Rematerialize,
      },
      "ModelConfig",
      values,
    )
    for side in ("encoder", "decoder"):
      if isinstance(values[side], StackConfig):
        continue
      stack = dict(values[side])
      if stack["moe"] is not None:
        stack["moe"] = MoeConfig.from_dict(stack["moe"])
      values[side] = StackConfig(**stack)
    return cls(**values)


def _plain(value: Any) -> Any:
  if isinstance(value, Granularity):
    return value.to_json()
  if dataclasses.is_dataclass(value):
    return {
      field.name: _plain(getattr(value, field.name))
      for field in dataclasses.fields(value)
    }
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  return str(value) if isinstance(value, enum.Enum) else value

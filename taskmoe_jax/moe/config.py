"""The config of an MoE layer, and which settings go together."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from taskmoe_jax.errors import (
  TaskMoeError,
  as_members,
  check_at_least,
  check_members,
)
from taskmoe_jax.moe.granularity import Granularity, granularity_from_json
from taskmoe_jax.moe.tables import WordTable


class SecondExpertPolicy(enum.StrEnum):
  """How training makes choices 2 to K (lingvo, `Top2GatingOnLogits`)."""

  ALL = "all"  # the best ones
  RANDOM = "random"  # the best ones, each by a draw against its gate
  SAMPLING = "sampling"  # drawn from the probabilities


class Renormalize(enum.StrEnum):
  """When the gates of a token are scaled to sum to 1.

  Lingvo's `legacy_mtf_behavior`, true and false.
  """

  BEFORE = "before"  # anything is dropped
  AFTER = "after"  # anything has been dropped


class Priority(enum.StrEnum):
  """Which tokens claim an expert's places first."""

  ORDER = "order"
  GATE = "gate"  # batch-prioritised routing (V-MoE, arXiv 2106.05974)
  RANDOM = "random"  # so that no position is spared


class Dispatch(enum.StrEnum):
  """How tokens and experts come together; see `moe.dispatch`."""

  AUTO = "auto"
  CAPACITY = "capacity"
  DROPLESS = "dropless"
  EXPERT_FETCH = "expert_fetch"


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeConfig:
  """An MoE layer of E experts, K of which are chosen for every token.

  Attributes:
    granularity: What one routing decision is made for.
    num_experts: E.
    num_selected: K, from 1 to E.
    expert_mlp_dim: F of one expert. The paper's is that of the dense layers;
      half of it makes an extracted top-2 sub-network exactly as wide as those.
    dispatch: Which engine moves tokens to experts, or experts to tokens.
    capacity_factor: How many times its fair share of a group's tokens an expert
      takes in training before it drops some; None never drops, and costs E/K
      times the memory. The paper states none. Read by `capacity` only.
    group_size: Tokens that compete for an expert's capacity, in whole rows.
    balance_loss_weight: Weight of the balance loss in the training loss.
    z_loss_weight: Weight of the router z-loss in the training loss.
    pool_factor: How many times its fair share of a device's choices another
      device has places for in training; None never drops, at as many times the
      memory as devices share the experts. Read by `dropless` only, on a mesh.
    refetch: Whether the backward pass fetches experts again, rather than keep
      them. Read by `expert_fetch` only.
    second_expert_policy: How training makes choices 2 to K.
    second_expert_threshold: Policy `random` makes choice k with probability
      gate_k / threshold, at most 1. Read by it only.
    renormalize: When gates are scaled to sum to 1, where anything is dropped.
    jitter: In training, what a router reads is multiplied by noise that is
      uniform in 1 - jitter..1 + jitter (Switch, arXiv 2101.03961).
    balance_bias_rate: How far each step moves an expert's bias towards an even
      load (arXiv 2408.15664); see `moe.gates`. By token only.
    priority: Which tokens claim places first. Read by `capacity` only.
    expert_mask_rate: Share of choices whose expert's output training masks
      (NLLB's expert output masking, arXiv 2207.04672, section 6.2.1).
    gating_dropout_rate: Share of training steps in which the layer is skipped,
      so that nothing is sent anywhere (Gating Dropout, arXiv 2205.14336, its
      variant Gate-Expert-Drop).
    word_table: Which experts a token id has. Read by granularity `word` only.
    num_candidates: M, from K to E: the experts that a task's tokens are routed
      among. Read by granularity `task_then_token` only.
    has_padding: Whether some layers have fewer experts, and are padded to E
      with experts that no token chooses; see `export.pruning`.
  """

  granularity: Granularity
  num_experts: int
  num_selected: int
  expert_mlp_dim: int
  dispatch: Dispatch
  capacity_factor: float | None
  group_size: int
  balance_loss_weight: float
  z_loss_weight: float
  pool_factor: float | None = None
  refetch: bool = False
  second_expert_policy: SecondExpertPolicy = SecondExpertPolicy.ALL
  second_expert_threshold: float | None = None
  renormalize: Renormalize = Renormalize.BEFORE
  jitter: float = 0.0
  balance_bias_rate: float = 0.0
  priority: Priority = Priority.ORDER
  expert_mask_rate: float = 0.0
  gating_dropout_rate: float = 0.0
  word_table: WordTable | None = None
  num_candidates: int | None = None
  has_padding: bool = False

  def __post_init__(self):
    check_members(
      "MoeConfig",
      granularity=(Granularity, self.granularity),
      dispatch=(Dispatch, self.dispatch),
      second_expert_policy=(SecondExpertPolicy, self.second_expert_policy),
      renormalize=(Renormalize, self.renormalize),
      priority=(Priority, self.priority),
    )
    if self.word_table is not None:
      check_members("MoeConfig", word_table=(WordTable, self.word_table))
    check_at_least(
      1,
      "MoeConfig",
      expert_mlp_dim=self.expert_mlp_dim,
      group_size=self.group_size,
    )
    check_at_least(
      0,
      "MoeConfig",
      balance_loss_weight=self.balance_loss_weight,
      z_loss_weight=self.z_loss_weight,
    )
    if not 1 <= self.num_selected <= self.num_experts:
      raise TaskMoeError(
        f"num_selected={self.num_selected} is outside 1..{self.num_experts},"
        " the number of experts. Set MoeConfig.num_selected."
      )
    if self.dispatch is Dispatch.EXPERT_FETCH and self.granularity.by_token:
      raise TaskMoeError(
        "dispatch 'expert_fetch' cannot serve granularity"
        f" {str(self.granularity)!r}: it fetches experts for whole rows. Set"
        " MoeConfig.dispatch to 'dropless' or 'auto'."
      )
    for field in ("capacity_factor", "pool_factor"):
      factor = getattr(self, field)
      if factor is not None and not factor > 0:
        raise TaskMoeError(
          f"{field}={factor} is not above 0. Set MoeConfig.{field}, or None to"
          " never drop a token."
        )
    check_choices(self)

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> "MoeConfig":
    """Reads what `ModelConfig.to_dict` has of it: enums by their values."""
    values = as_members(ENUMS, "MoeConfig", values)
    granularity = values["granularity"]
    if not isinstance(granularity, Granularity):
      values["granularity"] = granularity_from_json(granularity)
    return cls(**values)

  @property
  def has_capacity(self) -> bool:
    """Whether training may find an expert full."""
    # `auto` chooses it on one platform only, so it is not counted on.
    named = self.dispatch is Dispatch.CAPACITY
    return named and self.capacity_factor is not None

  @property
  def has_pool(self) -> bool:
    """Whether training may find a pool between devices full."""
    by_pool = self.dispatch is Dispatch.DROPLESS or (
      self.dispatch is Dispatch.AUTO and not self.granularity.by_task
    )
    return by_pool and self.pool_factor is not None


ENUMS = {
  "dispatch": Dispatch,
  "second_expert_policy": SecondExpertPolicy,
  "renormalize": Renormalize,
  "priority": Priority,
  "word_table": WordTable,
}


def check_choices(config: MoeConfig) -> None:
  """Refuses what is wrong or does nothing.

  Raises:
    TaskMoeError: A value is out of its range, or needs another one.
  """
  _check_ranges(config)
  config.granularity.check(config)
  _check_policy(config)
  _check_gates(config)


def _check_ranges(config: MoeConfig) -> None:
  for field in ("jitter", "expert_mask_rate", "gating_dropout_rate"):
    value = getattr(config, field)
    if not 0 <= value < 1:
      raise TaskMoeError(
        f"{field}={value} is outside [0, 1). Set MoeConfig.{field}."
      )
  check_at_least(0, "MoeConfig", balance_bias_rate=config.balance_bias_rate)
  threshold = config.second_expert_threshold
  if threshold is not None and not 0 < threshold <= 1:
    raise TaskMoeError(
      f"second_expert_threshold={threshold} is outside (0, 1]. Set"
      " MoeConfig.second_expert_threshold."
    )


def _check_policy(config: MoeConfig) -> None:
  policy = config.second_expert_policy
  if policy is SecondExpertPolicy.ALL:
    return
  _needs_gate(config, "second_expert_policy", policy, "'all'")
  if config.num_selected == 1:
    raise TaskMoeError(
      f"second_expert_policy={str(policy)!r} does nothing with num_selected=1."
      " Set MoeConfig.second_expert_policy to 'all', or"
      " MoeConfig.num_selected."
    )
  if policy is SecondExpertPolicy.RANDOM and (
    config.second_expert_threshold is None
  ):
    raise TaskMoeError(
      "second_expert_policy='random' needs a second_expert_threshold in (0, 1]."
      " Set MoeConfig.second_expert_threshold."
    )


def _check_gates(config: MoeConfig) -> None:
  if config.jitter:
    _needs_gate(config, "jitter", config.jitter, "0.0")
  if config.has_padding:
    _needs_gate(config, "has_padding", config.has_padding, "False")
  if config.balance_bias_rate:
    _check_balance_bias(config)
  if config.priority is not Priority.ORDER:
    _check_priority(config)
  if config.renormalize is Renormalize.AFTER:
    _check_renormalize(config)


def _needs_gate(config: MoeConfig, field: str, value: object, off: str) -> None:
  if not config.granularity.has_gate:
    raise TaskMoeError(
      f"{field}={_shown(value)} does nothing with granularity"
      f" {str(config.granularity)!r}, whose experts a fixed table names. Set"
      f" MoeConfig.{field} to {off}."
    )


def _check_balance_bias(config: MoeConfig) -> None:
  rate = config.balance_bias_rate
  if not config.granularity.balances_tokens:
    raise TaskMoeError(
      f"balance_bias_rate={rate} balances tokens, and granularity is"
      f" {str(config.granularity)!r}. Set MoeConfig.balance_bias_rate to 0.0,"
      " or MoeConfig.granularity to 'token'."
    )
  if config.second_expert_policy is SecondExpertPolicy.SAMPLING:
    raise TaskMoeError(
      f"balance_bias_rate={rate} steers choices that"
      " second_expert_policy='sampling' leaves to chance. Set"
      " MoeConfig.balance_bias_rate to 0.0, or MoeConfig.second_expert_policy"
      " to 'all'."
    )


def _check_priority(config: MoeConfig) -> None:
  priority = config.priority
  if priority is Priority.GATE:
    _needs_gate(config, "priority", priority, "'order' or 'random'")
  if not config.has_capacity:
    raise TaskMoeError(
      f"priority={_shown(priority)} does nothing where no expert is ever full:"
      f" dispatch is {str(config.dispatch)!r}, capacity_factor is"
      f" {config.capacity_factor} and granularity {str(config.granularity)!r}."
      " Set MoeConfig.priority to 'order', or MoeConfig.dispatch to 'capacity'"
      " and MoeConfig.capacity_factor to a number."
    )


def _check_renormalize(config: MoeConfig) -> None:
  if config.num_selected == 1:
    raise TaskMoeError(
      "renormalize='after' would make every gate 1 with num_selected=1, and the"
      " router could not learn. Set MoeConfig.renormalize to 'before'."
    )
  if config.expert_mask_rate:
    raise TaskMoeError(
      f"renormalize='after' would undo expert_mask_rate="
      f"{config.expert_mask_rate}, which already scales gates. Set"
      " MoeConfig.renormalize to 'before', or MoeConfig.expert_mask_rate to"
      " 0.0."
    )
  if not (
    config.has_capacity
    or config.has_pool
    or config.second_expert_policy is SecondExpertPolicy.RANDOM
  ):
    raise TaskMoeError(
      "renormalize='after' does nothing where no choice is ever dropped:"
      f" dispatch is {str(config.dispatch)!r}, capacity_factor is"
      f" {config.capacity_factor}, pool_factor is {config.pool_factor},"
      f" granularity {str(config.granularity)!r} and"
      f" second_expert_policy {str(config.second_expert_policy)!r}. Set"
      " MoeConfig.renormalize to 'before'."
    )


def _shown(value: object) -> str:
  return repr(str(value) if isinstance(value, enum.Enum) else value)

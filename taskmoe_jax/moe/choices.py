"""What a router may do besides choosing the K best, and what goes together."""

import enum
from typing import Any

from taskmoe_jax.errors import TaskMoeError, as_member, check_at_least

# `moe.config.MoeConfig`, whose module imports this one.
MoeConfig = Any


class SecondExpertPolicy(enum.StrEnum):
  """How training takes choices 2 to K (lingvo, `Top2GatingOnLogits`)."""

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
  """Who claims the places of an expert first where they are few."""

  ORDER = "order"
  GATE = "gate"  # batch-prioritised routing (V-MoE, arXiv 2106.05974)
  RANDOM = "random"  # so that no position is spared


class WordTable(enum.StrEnum):
  """Which experts a token id has, see `moe.tables`."""

  DEALT = "dealt"
  HASHED = "hashed"


def check_choices(config: MoeConfig) -> None:
  """Turns names into members, and refuses what is wrong or does nothing.

  Raises:
    TaskMoeError: A value is out of its range, or needs another one.
  """
  for field, kind in (
    ("second_expert_policy", SecondExpertPolicy),
    ("renormalize", Renormalize),
    ("priority", Priority),
    ("word_table", WordTable),
  ):
    value = getattr(config, field)
    if value is not None:
      member = as_member(kind, field, value, f"MoeConfig.{field}")
      object.__setattr__(config, field, member)
  _check_ranges(config)
  _check_tables(config)
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


def _check_tables(config: MoeConfig) -> None:
  granularity = config.granularity
  if granularity == "word" and config.word_table is None:
    raise TaskMoeError(
      "granularity 'word' needs a word_table: accepted are"
      f" {', '.join(WordTable)}. Set MoeConfig.word_table."
    )
  if granularity != "task_then_token":
    return
  candidates = config.num_candidates
  if candidates is None or not (
    config.num_selected <= candidates <= config.num_experts
  ):
    raise TaskMoeError(
      f"num_candidates={candidates} is outside {config.num_selected}.."
      f"{config.num_experts}, the numbers of experts selected and of all. Set"
      " MoeConfig.num_candidates."
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
  if config.granularity != "token":
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
      f"{config.expert_mask_rate}, which scales gates by itself. Set"
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

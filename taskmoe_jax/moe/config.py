"""What an MoE layer is: granularity, experts, dispatch, loss weights."""

import dataclasses
import enum

from taskmoe_jax.errors import TaskMoeError, as_member, check_at_least


class Granularity(enum.StrEnum):
  """What one routing decision is made for (section 3.1 of the paper)."""

  TOKEN = "token"
  SENTENCE = "sentence"
  TASK = "task"
  STATIC = "static"  # experts dealt out to tasks by a fixed table, no gate

  @property
  def by_task(self) -> bool:
    """Whether the task alone decides, so that a sub-network is exact."""
    return self in (Granularity.TASK, Granularity.STATIC)


class Dispatch(enum.StrEnum):
  """How tokens and experts come together; see `moe.dispatch`."""

  AUTO = "auto"
  CAPACITY = "capacity"
  DROPLESS = "dropless"
  EXPERT_FETCH = "expert_fetch"


class Renormalize(enum.StrEnum):
  """When the gates of a token's choices are scaled to sum to 1.

  Lingvo's default is before (`legacy_mtf_behavior`): what a token loses by a
  dropped choice stays lost.
  """

  BEFORE = "before"  # before choices are dropped
  AFTER = "after"  # and again after it


@dataclasses.dataclass(frozen=True, kw_only=True)
class MoeConfig:
  """An MoE layer of E experts, of which every token meets K.

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
    renormalize: Whether gates sum to 1 before or after choices are dropped.
  """

  granularity: Granularity | str
  num_experts: int
  num_selected: int
  expert_mlp_dim: int
  dispatch: Dispatch | str
  capacity_factor: float | None
  group_size: int
  balance_loss_weight: float
  z_loss_weight: float
  pool_factor: float | None = None
  refetch: bool = False
  renormalize: Renormalize | str = Renormalize.BEFORE

  def __post_init__(self):
    for field, kind in (
      ("granularity", Granularity),
      ("dispatch", Dispatch),
      ("renormalize", Renormalize),
    ):
      member = as_member(
        kind, field, getattr(self, field), f"MoeConfig.{field}"
      )
      object.__setattr__(self, field, member)
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
    if (
      self.dispatch is Dispatch.EXPERT_FETCH
      and self.granularity is Granularity.TOKEN
    ):
      raise TaskMoeError(
        "dispatch 'expert_fetch' cannot serve granularity 'token': it fetches"
        " experts for whole rows. Set MoeConfig.dispatch to 'dropless' or"
        " 'auto'."
      )
    for field in ("capacity_factor", "pool_factor"):
      factor = getattr(self, field)
      if factor is not None and not factor > 0:
        raise TaskMoeError(
          f"{field}={factor} is not above 0. Set MoeConfig.{field}, or None to"
          " never drop a token."
        )

"""Which engine brings tokens and experts together, and why.

An engine is a small frozen object. Called with tokens, their routing and the
expert weights it returns the mixed output, and which choices it served.
Routers and experts know nothing of it, so every granularity runs on every
engine that can serve it, and they check each other.
"""

import enum
from typing import NamedTuple

from taskmoe_jax import axes
from taskmoe_jax.moe.capacity import Capacity
from taskmoe_jax.moe.config import Dispatch, MoeConfig, Renormalize
from taskmoe_jax.moe.dropless import Dropless
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.partitioning.rules import active, platform

Engine = Capacity | Dropless | ExpertFetch


# Nearly always serves all choices in one round if the load is about even: twice
# the fair share, and eight places more where that is only a choice or two.
_NOTHING_DROPPED = Dropless(2.0, spare_places=8, in_rounds=True)


class Phase(enum.StrEnum):
  """What a forward pass is for."""

  TRAIN = "train"
  EVALUATE = "evaluate"  # whole sentences, which must not be changed by others
  DECODE = "decode"  # the same, one token of each row

  @classmethod
  def of(cls, *, train: bool, length: int) -> "Phase":
    if train:
      return cls.TRAIN
    return cls.DECODE if length == 1 else cls.EVALUATE


class Choice(NamedTuple):
  """An engine, and in a few words why it was chosen."""

  engine: Engine
  reason: str

  def __str__(self) -> str:
    names = {
      Capacity: Dispatch.CAPACITY,
      Dropless: Dispatch.DROPLESS,
      ExpertFetch: Dispatch.EXPERT_FETCH,
    }
    return f"{names[type(self.engine)]}: {self.reason}"


def choose_engine(
  config: MoeConfig, phase: Phase, *, num_rows: int, rows_per_task_group: int
) -> Choice:
  """Returns the engine that the config names, or the best one for `auto`.

  Only training drops, whatever the config names: a translation must not depend
  on its neighbours in the batch. So `capacity` outside of training means
  `dropless`, which also spares a decoding step a batch padded to the capacity.

  Args:
    config: The layer's config.
    phase: What the forward pass is for.
    num_rows: B, over all devices.
    rows_per_task_group: Size of the groups of consecutive rows with one task.
  """
  dispatch: Dispatch = config.dispatch
  reason = "named by MoeConfig.dispatch"
  if dispatch is Dispatch.AUTO:
    groups = num_rows // rows_per_task_group
    dispatch, reason = _best(config, phase, groups)
  if dispatch is Dispatch.EXPERT_FETCH:
    # A group shares its experts only when the task alone decides on them.
    shared = config.granularity.by_task
    rows = rows_per_task_group if shared else 1
    return Choice(ExpertFetch(rows, config.refetch), reason)
  again = config.renormalize is Renormalize.AFTER
  if phase is not Phase.TRAIN:
    if dispatch is Dispatch.CAPACITY:
      reason = "only training drops tokens"
    return Choice(_NOTHING_DROPPED, reason)
  if dispatch is Dispatch.CAPACITY:
    engine = Capacity(config.capacity_factor, config.group_size, again)
    return Choice(engine, reason)
  return Choice(Dropless(config.pool_factor, again), reason)


def _best(config: MoeConfig, phase: Phase, groups: int) -> tuple[Dispatch, str]:
  """What `auto` chooses; docs/routing.md has the measurements behind it."""
  if config.granularity.by_task:
    if active() is not None:
      return Dispatch.EXPERT_FETCH, (
        "the task alone decides, so each device gets the experts of its rows in"
        " one all-to-all"
      )
    if groups * config.num_selected > config.num_experts:
      return Dispatch.DROPLESS, (
        f"{groups} groups of rows with {config.num_selected} experts each are"
        f" more than the {config.num_experts} there are"
      )
    return Dispatch.EXPERT_FETCH, (
      "the task alone decides, so a group of rows is one dense product"
    )
  if platform() == "gpu" and phase is Phase.TRAIN:
    return Dispatch.CAPACITY, (
      "tokens choose for themselves, and on a GPU the grouped product of"
      " 'dropless' is XLA's, which computes every expert for all tokens"
    )
  return Dispatch.DROPLESS, (
    "tokens choose for themselves, and a grouped product pads no expert"
  )


def expert_axes(
  config: MoeConfig,
) -> tuple[str, tuple[str | None, str | None]]:
  """Logical axes of expert weights: that of E, and those of D and F.

  Fetched experts are split in width, so that each device has a slice of every
  one and all send the same amount; experts that tokens are sent to are whole on
  their device.
  """
  fetched = config.dispatch is Dispatch.EXPERT_FETCH or (
    config.dispatch is Dispatch.AUTO and config.granularity.by_task
  )
  if fetched:
    return axes.FETCHED_EXPERT, (None, axes.FETCHED_MLP)
  return axes.EXPERT, (axes.EMBED, axes.MLP)

"""Which engine brings tokens and experts together.

An engine is a small frozen object. Called with tokens, their routing and the
expert weights it returns the mixed output, and which choices it served.
Routers and experts know nothing of it, so every granularity runs on every
engine that can serve it, and they check each other.
"""

from taskmoe_jax.moe.capacity import Capacity
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.expert_fetch import ExpertFetch

Engine = Capacity | ExpertFetch


def choose_engine(
  config: MoeConfig, *, train: bool, rows_per_task_group: int
) -> Engine:
  """Returns the engine that the config names, or the best one for `auto`.

  `auto` fetches experts where the task alone decides, since whole groups of
  rows then share them, and dispatches tokens with a capacity elsewhere. Only
  training drops: a translation must not depend on its neighbours in the batch.
  """
  dispatch = config.dispatch
  if dispatch is Dispatch.AUTO:
    by_task = config.granularity.by_task
    dispatch = Dispatch.EXPERT_FETCH if by_task else Dispatch.CAPACITY
  if dispatch is Dispatch.EXPERT_FETCH:
    # A group shares its experts only when the task alone decides on them.
    shared = config.granularity.by_task
    return ExpertFetch(rows_per_task_group if shared else 1)
  factor = config.capacity_factor if train else None
  return Capacity(factor, config.group_size)

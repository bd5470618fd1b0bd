"""A sub-network for several tasks: dense where they agree, a mixture else.

Where all tasks have the same experts with the same gates, one feed-forward
network of width K·F serves them all. Where not, a smaller mixture does, and
its router is the same without the experts that none of them has. That is exact:

- By task, the K best of all experts are the K best of those kept. Their gates
  are renormalised to sum to 1, so that what is left out does not count.
- With K = 1 the gate is the probability among all experts itself. So it is
  folded into a copy of the expert for each task, and a fixed table deals these.
- By `task_then_token` the tokens choose among the candidates of their task, and
  all others have no probability.
- By a fixed table, it deals copies in the order of the tasks.

Layers are scanned, so each keeps as many experts as the one that needs most:
there are some that no task chooses. Task ids are those of the tasks kept.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, PyTree

from taskmoe_jax.export.extract import (
  SelectedExperts,
  reduce_stack,
  reduced_config,
  reducible_stacks,
  select,
)
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import STATIC


def extract_union(
  params: PyTree, config: ModelConfig, task_ids: Sequence[int], num_tasks: int
) -> tuple[PyTree, ModelConfig, dict[str, SelectedExperts]]:
  """Extracts the sub-network of several tasks; of one, that of `extract`.

  Args:
    params: Of the mixture, see `extract`; not changed.
    config: Of the mixture.
    task_ids: The tasks; their new ids are their positions.
    num_tasks: R, of the mixture's task space.

  Returns:
    Parameters and config of the sub-network, and the experts it has, by stack.
  """
  params, selected = dict(params), {}
  for name in reducible_stacks(config):
    stack: StackConfig = getattr(config, name)
    choices = [select(params[name], stack, i, num_tasks) for i in task_ids]
    chosen, small = _joined(stack, choices)
    params[name] = reduce_stack(params[name], stack, small, chosen, task_ids)
    selected[name] = chosen
    config = dataclasses.replace(config, **{name: small})
  return params, config, selected


def _joined(
  stack: StackConfig, choices: Sequence[SelectedExperts]
) -> tuple[SelectedExperts, StackConfig]:
  """The experts that serve all of these, and the config of their stack."""
  first, moe = choices[0], stack.moe
  if all(_agree(first, other) for other in choices):
    return first, reduced_config(stack)
  by_table = not moe.granularity.has_gate
  if by_table or (moe.granularity.by_task and moe.num_selected == 1):
    experts = np.concatenate([choice.experts for choice in choices], axis=1)
    gates = np.concatenate([choice.gates for choice in choices], axis=1)
    chosen = SelectedExperts(first.layers, experts, None if by_table else gates)
    small = _dealt(moe, experts.shape[1])
  else:
    experts = _padded_union(choices, moe.num_experts)
    chosen = SelectedExperts(first.layers, experts, None)
    small = dataclasses.replace(moe, num_experts=experts.shape[1])
  return chosen, dataclasses.replace(stack, moe=small)


def _agree(one: SelectedExperts, other: SelectedExperts) -> bool:
  gates = (one.gates is None and other.gates is None) or np.array_equal(
    one.gates, other.gates
  )
  return gates and np.array_equal(one.experts, other.experts)


def _padded_union(
  choices: Sequence[SelectedExperts], num_experts: int
) -> Int[np.ndarray, "blocks M"]:
  """The experts of each block, filled up to one number with others.

  In ascending order, so that ties are decided as they were.
  """
  together = np.concatenate([choice.experts for choice in choices], axis=1)
  wanted = [np.unique(row) for row in together]
  most = max(map(len, wanted))
  filled = [
    [*row, *np.setdiff1d(np.arange(num_experts), row)][:most] for row in wanted
  ]
  return np.sort(filled, axis=1).astype(np.int32)


def _dealt(moe: MoeConfig, num_experts: int) -> MoeConfig:
  """A fixed table, by which task r has experts rK to rK + K - 1."""
  return MoeConfig(
    granularity=STATIC,
    num_experts=num_experts,
    num_selected=moe.num_selected,
    expert_mlp_dim=moe.expert_mlp_dim,
    dispatch=Dispatch.AUTO,
    capacity_factor=moe.capacity_factor,
    group_size=moe.group_size,
    balance_loss_weight=0.0,
    z_loss_weight=0.0,
  )

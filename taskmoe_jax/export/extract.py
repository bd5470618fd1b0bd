"""Sub-networks: the small model that the mixture is for one task, or several.

Where the task alone decides on the experts, their gates are constants. So the K
chosen experts of a layer are one feed-forward network of width K·F:

  sum_k g_k wo_k relu(wi_k x) = [g_1 wo_1 .. g_K wo_K] relu([wi_1 .. wi_K] x)

The square root of each gate goes into both matrices, because that is kindest to
int8 later (docs/design/engines.md); a ReLU lets it through, and in a gated
network it goes into the linear branch.

Where the task decides on M candidates and its tokens among them, a sub-network
is a mixture of those M: the same router without the other experts, for which
the task's tokens have no probability at all.

Several tasks share this network where all have the same experts with the same
gates. Where not, a smaller mixture serves them, and its router is the same
without the experts that none of them has. That is exact:

- By task, the K best of all experts are the K best of those kept. Their gates
  are renormalized to sum to 1, so that what is left out does not count.
- With K = 1 the gate is the probability among all experts itself. So it is
  folded into a copy of the expert for each task, and a fixed table deals these.
- By `task_then_token` the tokens choose among the candidates of their task, and
  all others have no probability.
- By a fixed table, it deals copies in the order of the tasks.

Layers are scanned, so each keeps as many experts as the one that needs most;
the others are padded with experts that no task chooses. Task ids are new: the
positions of the tasks that are kept.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from taskmoe_jax.export.selection import (
  SelectedExperts,
  reducible_stacks,
  select,
)
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import STATIC
from taskmoe_jax.runs.lazy_arrays import LazyArray

# In memory, or in a checkpoint.
Weights = Float[Array, "..."] | Float[np.ndarray, "..."] | LazyArray


def extract(
  params: PyTree, config: ModelConfig, task_ids: Sequence[int], num_tasks: int
) -> tuple[PyTree, ModelConfig, dict[str, SelectedExperts]]:
  """Extracts the sub-network of one task, or of several.

  Stacks whose experts the text decides on are kept whole.

  Args:
    params: The mixture's parameters; not changed. Experts may be `LazyArray`s:
      only those chosen are read, and those of stacks that are kept are not.
    config: The mixture's config.
    task_ids: The tasks; their new ids are their positions.
    num_tasks: R, of the mixture's task space.

  Returns:
    Parameters and config of the sub-network, and the experts it has, by stack.
  """
  params, selected = dict(params), {}
  for name in reducible_stacks(config):
    stack: StackConfig = getattr(config, name)
    selections = [select(params[name], stack, i, num_tasks) for i in task_ids]
    chosen, small = _shared_experts(stack, selections)
    params[name] = reduce_stack(params[name], stack, small, chosen, task_ids)
    selected[name] = chosen
    config = dataclasses.replace(config, **{name: small})
  return params, config, selected


def reduced_config(stack: StackConfig) -> StackConfig:
  """What a stack becomes for one task: dense, or a mixture of candidates."""
  moe = stack.require_moe()
  if moe.granularity.by_task:
    width = moe.num_selected * moe.expert_mlp_dim
    return StackConfig(
      num_layers=stack.num_layers, mlp_dims=(*stack.mlp_dims, width)
    )
  small = dataclasses.replace(moe, num_experts=moe.num_candidates)
  return dataclasses.replace(stack, moe=small)


def reduce_stack(
  weights: Mapping[str, PyTree],
  stack: StackConfig,
  small: StackConfig,
  chosen: SelectedExperts,
  task_ids: Sequence[int],
) -> dict[str, PyTree]:
  """Makes the parameters of a smaller stack.

  Args:
    weights: The stack's parameters; not changed.
    stack: Its config.
    small: What it becomes: dense, or with fewer experts.
    chosen: Which experts it keeps; with gates, if these are to be folded in.
    task_ids: The tasks that it keeps, in their new order.
  """
  weights = dict(weights)
  table = weights.pop("task_table", None)
  last = stack.moe_layer
  layer = dict(weights["blocks"][last])
  moe = layer.pop("moe")
  if small.moe is None:
    layer["mlp"] = merge_experts(moe["experts"], chosen.experts, chosen.gates)
  else:
    layer["moe"] = slice_experts(moe, chosen.experts, chosen.gates)
    if not small.moe.granularity.has_gate:
      layer["moe"].pop("router", None)
    if small.moe.granularity.has_task_vectors:
      weights["task_table"] = table[np.asarray(task_ids)]
  weights["blocks"] = {**weights["blocks"], last: layer}
  return weights


def slice_experts(
  moe: Mapping[str, Mapping[str, Weights]],
  chosen: Int[np.ndarray, "blocks M"],
  gates: Float[np.ndarray, "blocks M"] | None = None,
) -> dict[str, dict[str, Array | np.ndarray]]:
  """Takes the chosen experts of each block, and their columns of the router."""
  sliced = {"experts": _folded(moe["experts"], chosen, gates)}
  if "router" in moe:
    sliced["router"] = {
      name: jax.vmap(lambda w, index: w[..., index])(table, chosen)
      for name, table in moe["router"].items()
    }
  return sliced


def merge_experts(
  experts: Mapping[str, Weights],
  chosen: Int[np.ndarray, "blocks K"],
  gates: Float[np.ndarray, "blocks K"],
) -> dict[str, Float[Array | np.ndarray, "blocks _ _"]]:
  """Joins the chosen experts of each block along their hidden axis."""
  merged = {}
  for name, picked in _folded(experts, chosen, gates).items():
    blocks, k, rows, columns = picked.shape
    if name == "wo":
      merged[name] = picked.reshape(blocks, k * rows, columns)
    else:
      merged[name] = picked.swapaxes(1, 2).reshape(blocks, rows, k * columns)
  return merged


def _folded(
  experts: Mapping[str, Weights],
  chosen: Int[np.ndarray, "blocks M"],
  gates: Float[np.ndarray, "blocks M"] | None,
) -> dict[str, Float[Array | np.ndarray, "blocks M _ _"]]:
  """Takes the chosen experts, with the roots of their gates if given."""
  taken = {name: take_experts(w, chosen) for name, w in experts.items()}
  if gates is not None:
    # NumPy's root is the same on every platform.
    root = np.sqrt(gates)[:, :, None, None]
    taken |= {name: taken[name] * root for name in folded_into(experts)}
  return taken


def folded_into(experts: Iterable[str]) -> tuple[str, str]:
  """Which matrices have the root of the gate in them, of these."""
  return ("wo", "wi_1" if "wi_1" in experts else "wi")


def take_experts(
  weights: Weights, chosen: Int[np.ndarray, "blocks M"]
) -> Float[Array | np.ndarray, "blocks M _ _"]:
  """Takes the chosen experts of each block, from memory or a checkpoint."""
  if isinstance(weights, LazyArray):
    return weights.take(chosen)
  return jax.vmap(lambda w, index: w[index])(weights, chosen)


def _shared_experts(
  stack: StackConfig, selections: Sequence[SelectedExperts]
) -> tuple[SelectedExperts, StackConfig]:
  """The experts that serve all of these, and the config of their stack."""
  first, moe = selections[0], stack.require_moe()
  if all(_agree(first, other) for other in selections):
    return first, reduced_config(stack)
  by_table = not moe.granularity.has_gate
  if by_table or (moe.granularity.by_task and moe.num_selected == 1):
    experts = np.concatenate(
      [selection.experts for selection in selections], axis=1
    )
    gates = np.concatenate(
      [selection.gates for selection in selections], axis=1
    )
    chosen = SelectedExperts(first.layers, experts, None if by_table else gates)
    small = _dealt_by_table(moe, experts.shape[1])
  else:
    experts = _padded_union(selections, moe.num_experts)
    chosen = SelectedExperts(first.layers, experts, None)
    small = dataclasses.replace(moe, num_experts=experts.shape[1])
  return chosen, dataclasses.replace(stack, moe=small)


def _agree(one: SelectedExperts, other: SelectedExperts) -> bool:
  if one.gates is None or other.gates is None:
    same_gates = one.gates is other.gates
  else:
    same_gates = np.array_equal(one.gates, other.gates)
  return same_gates and np.array_equal(one.experts, other.experts)


def _padded_union(
  selections: Sequence[SelectedExperts], num_experts: int
) -> Int[np.ndarray, "blocks M"]:
  """The experts of each block, filled up to one number with others.

  In ascending order, so that ties are decided as they were.
  """
  together = np.concatenate(
    [selection.experts for selection in selections], axis=1
  )
  wanted = [np.unique(row) for row in together]
  most = max(map(len, wanted))
  filled = [
    [*row, *np.setdiff1d(np.arange(num_experts), row)][:most] for row in wanted
  ]
  return np.sort(filled, axis=1).astype(np.int32)


def _dealt_by_table(moe: MoeConfig, num_experts: int) -> MoeConfig:
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

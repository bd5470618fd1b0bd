"""A task's sub-network: the small model that the mixture is for this task.

Where the task alone decides on the experts, their gates are constants. So the K
chosen experts of a layer are one feed-forward network of width K·F:

  sum_k g_k wo_k relu(wi_k x) = [g_1 wo_1 .. g_K wo_K] relu([wi_1 .. wi_K] x)

The square root of each gate goes into both matrices, because that is kindest to
int8 later (docs/design/engines.md); a ReLU lets it through, and in a gated
network it goes into the linear branch.

Where the task decides on M candidates and its tokens among them, a sub-network
is a mixture of those M: the same router without the other experts, for which
the task's tokens have no probability at all. It has one task, whose id is 0.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.gates import candidates, select_experts
from taskmoe_jax.moe.granularity import TaskTable
from taskmoe_jax.runs.lazy_arrays import LazyArray

# In memory, or where they lie in a checkpoint.
Weights = Float[Array, "..."] | Float[np.ndarray, "..."] | LazyArray


@dataclasses.dataclass(frozen=True)
class SelectedExperts:
  """The experts of one task in the MoE layers of a stack.

  Attributes:
    layers: Which layers of the stack these are, counted from 0.
    experts: Their ids: K, best first, or those of many, in order.
    gates: Their weights; None where a router decides still.
  """

  layers: tuple[int, ...]
  experts: Int[np.ndarray, "blocks K"]
  gates: Float[np.ndarray, "blocks K"] | None


def reducible_stacks(config: ModelConfig) -> tuple[str, ...]:
  """Names of the stacks whose experts the task decides on.

  Raises:
    TaskMoeError: There is none, so there is no sub-network to extract.
  """
  reducible = tuple(stacks_routed_by_task(config))
  if reducible:
    return reducible
  raise TaskMoeError(
    f"no sub-network can be extracted: {how_routed(config)}, and only experts"
    " that the task decides on can be told before the text is seen. Train with"
    " ENCODER or DECODER set to 'task', 'static' or 'task_then_token'."
  )


def how_routed(config: ModelConfig) -> str:
  """Says for an error by what each stack is routed."""
  stacks = {"encoder": config.encoder, "decoder": config.decoder}
  return " and ".join(
    f"the {name} "
    + (f"is routed by {stack.moe.granularity}" if stack.moe else "is dense")
    for name, stack in stacks.items()
  )


def extract(
  params: PyTree, config: ModelConfig, task_id: int, num_tasks: int
) -> tuple[PyTree, ModelConfig, dict[str, SelectedExperts]]:
  """Extracts one task's sub-network.

  Stacks that the task does not route are kept whole.

  Args:
    params: Of the mixture; not changed. Experts may be `LazyArray`s: only
      those chosen are read, and those of stacks that are kept are not.
    config: Of the mixture.
    task_id: The task.
    num_tasks: R, of the mixture's task space.

  Returns:
    Parameters and config of the sub-network, whose only task has the id 0, and
    the experts it is made of, by stack.
  """
  params, selected = dict(params), {}
  for name in reducible_stacks(config):
    stack: StackConfig = getattr(config, name)
    chosen = select(params[name], stack, task_id, num_tasks)
    small = reduced_config(stack)
    params[name] = reduce_stack(params[name], stack, small, chosen, (task_id,))
    selected[name] = chosen
    config = dataclasses.replace(config, **{name: small})
  return params, config, selected


def reduced_config(stack: StackConfig) -> StackConfig:
  """What a stack becomes for one task: dense, or a mixture of candidates."""
  if stack.moe.granularity.by_task:
    width = stack.moe.num_selected * stack.moe.expert_mlp_dim
    return StackConfig(
      num_layers=stack.num_layers, mlp_dims=(*stack.mlp_dims, width)
    )
  moe = dataclasses.replace(stack.moe, num_experts=stack.moe.num_candidates)
  return dataclasses.replace(stack, moe=moe)


def reduce_stack(
  weights: Mapping[str, PyTree],
  stack: StackConfig,
  small: StackConfig,
  chosen: SelectedExperts,
  task_ids: Sequence[int],
) -> dict[str, PyTree]:
  """Makes the parameters of a smaller stack.

  Args:
    weights: Of the stack; not changed.
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


def experts_of_task(
  params: PyTree,
  config: ModelConfig,
  task_id: int,
  num_tasks: int,
  *,
  with_gate: bool = True,
) -> dict[str, SelectedExperts]:
  """The experts that a task decides on, by stack; see `extract`.

  Args:
    params: Of the mixture; of these `router_paths` says which are read.
    config: Of the mixture.
    task_id: The task.
    num_tasks: R, of the mixture's task space.
    with_gate: Whether to ask routers with a learned gate too, or those with a
      fixed table alone, which need no parameters.
  """
  return {
    name: select(params.get(name, {}), stack, task_id, num_tasks)
    for name, stack in stacks_routed_by_task(config).items()
    if with_gate or not stack.moe.granularity.has_gate
  }


def router_paths(config: ModelConfig) -> tuple[tuple[str, ...], ...]:
  """Paths of the parameters that `experts_of_task` reads."""
  paths = []
  for name, stack in stacks_routed_by_task(config).items():
    gate = stack.require_moe().granularity.task_gate
    if gate is not None:
      layer = stack.moe_layer
      paths.append((name, "task_table"))
      paths.append((name, "blocks", layer, "moe", "router", gate))
  return tuple(paths)


def stacks_routed_by_task(config: ModelConfig) -> dict[str, StackConfig]:
  """The stacks whose experts a task decides on, by name; perhaps none."""
  stacks = {"encoder": config.encoder, "decoder": config.decoder}
  return {
    name: stack
    for name, stack in stacks.items()
    if stack.moe is not None and stack.moe.granularity.has_sub_network
  }


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


def select(
  weights: Mapping, stack: StackConfig, task_id: int, num_tasks: int
) -> SelectedExperts:
  """Evaluates what a task's router says, with its own functions."""
  moe, layers = stack.require_moe(), tuple(stack.moe_layers)
  granularity = moe.granularity
  if isinstance(granularity, TaskTable):
    table = granularity.task_experts(num_tasks, moe)
    experts = np.tile(table[task_id], (stack.num_blocks, 1))
    gates = np.full(experts.shape, 1.0 / moe.num_selected, np.float32)
    return SelectedExperts(layers, experts, gates)
  router = weights["blocks"][stack.moe_layer]["moe"]["router"]
  scores = jnp.einsum(
    "d,bde->be",
    weights["task_table"][task_id],
    router[granularity.task_gate],
    precision=jax.lax.Precision.HIGHEST,
  )
  if granularity.by_task:
    gates, experts, _ = select_experts(scores, moe.num_selected)
    return SelectedExperts(layers, np.asarray(experts), np.asarray(gates))
  # In ascending order, so that ties are decided as they were.
  experts = np.sort(candidates(scores, moe.num_candidates), axis=-1)
  return SelectedExperts(layers, experts, None)

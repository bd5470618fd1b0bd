"""Which tasks an export writes, and the experts and gates that serve each."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.moe.gates import candidates, select_experts
from taskmoe_jax.moe.granularity import TaskTable
from taskmoe_jax.task_space import TaskSpace

# Tasks of one bundle, by its name.
Groups = dict[str, tuple[str, ...]]


def tasks_named(
  space: TaskSpace, names: str, flag: str = "--tasks"
) -> tuple[str, ...]:
  """Tasks for `all`, or a comma-separated list of tasks and pairs.

  A pair means its task: routed by target, `de-en` means `en`.
  """
  if names == "all":
    return space.tasks
  tasks: dict[str, None] = {}
  for name in names.split(","):
    if name in space.tasks:
      tasks[name] = None
    elif name in space.pairs:
      tasks[space.task_of_pair(name)] = None
    else:
      known = dict.fromkeys((*space.tasks, *space.pairs))
      raise TaskMoeError(
        one_of("task", name, ("all", *known)) + f". Set {flag}."
      )
  return tuple(tasks)


def groups_named(space: TaskSpace, tasks: str | None, union: str) -> Groups:
  """Which bundles to write: one for each task, and one for a union.

  Args:
    space: The run's.
    tasks: See `tasks_named`; if None, all, or none if there is a union.
    union: The same, of a bundle for all of these together; empty for none.
  """
  if tasks is None and not union:
    tasks = "all"
  names = () if tasks is None else tasks_named(space, tasks)
  groups: Groups = {name: (name,) for name in names}
  if union:
    together = set(tasks_named(space, union, "--union"))
    kept = tuple(task for task in space.tasks if task in together)
    groups["+".join(kept)] = kept
  return groups


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


def stacks_routed_by_task(config: ModelConfig) -> dict[str, StackConfig]:
  """The stacks whose experts a task decides on, by name; perhaps none."""
  stacks = {"encoder": config.encoder, "decoder": config.decoder}
  return {
    name: stack
    for name, stack in stacks.items()
    if stack.moe is not None and stack.moe.granularity.has_sub_network
  }


def experts_of_task(
  params: PyTree,
  config: ModelConfig,
  task_id: int,
  num_tasks: int,
  *,
  with_gate: bool = True,
) -> dict[str, SelectedExperts]:
  """The experts that a task decides on, by stack.

  Args:
    params: The mixture's; `router_paths` says which of them are read.
    config: The mixture's.
    task_id: The task.
    num_tasks: R, the number of tasks of the mixture.
    with_gate: Whether to ask routers with a learned gate too, or those with a
      fixed table alone, which need no parameters.
  """
  return {
    name: select(params.get(name, {}), stack, task_id, num_tasks)
    for name, stack in stacks_routed_by_task(config).items()
    if with_gate or not stack.require_moe().granularity.has_gate
  }


def router_paths(config: ModelConfig) -> tuple[tuple[str, ...], ...]:
  """Paths of the parameters that `experts_of_task` reads."""
  paths: list[tuple[str, ...]] = []
  for name, stack in stacks_routed_by_task(config).items():
    gate = stack.require_moe().granularity.task_gate
    if gate is not None:
      layer = stack.moe_layer
      paths.append((name, "task_table"))
      paths.append((name, "blocks", layer, "moe", "router", gate))
  return tuple(paths)


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
    best_gates, best, _ = select_experts(scores, moe.num_selected)
    return SelectedExperts(layers, np.asarray(best), np.asarray(best_gates))
  assert moe.num_candidates is not None
  # In ascending order, so that ties are decided as they were.
  experts = np.sort(candidates(scores, moe.num_candidates), axis=-1)
  return SelectedExperts(layers, experts, None)


def describe_stacks(
  model: ModelConfig,
  small: ModelConfig,
  selected: Mapping[str, SelectedExperts],
) -> dict[str, dict[str, Any]]:
  """Says of each stack which experts it has, or why it is kept whole.

  Args:
    model: The mixture's config.
    small: The bundle's config.
    selected: Experts of the stacks that were reduced.
  """
  return {
    name: _describe_stack(
      getattr(model, name), getattr(small, name), selected.get(name)
    )
    for name in ("encoder", "decoder")
  }


def _describe_stack(
  stack: StackConfig, small: StackConfig, selected: SelectedExperts | None
) -> dict[str, Any]:
  if stack.moe is None:
    return {"reduced": False, "reason": "it is dense"}
  granularity = stack.moe.granularity
  if selected is None:
    return {
      "reduced": False,
      "reason": f"it is routed by {granularity}: its experts depend on the"
      " text, so all are kept",
    }
  layers = []
  for block, layer in enumerate(selected.layers):
    experts = selected.experts[block].tolist()
    if small.moe is None and selected.gates is not None:
      gates = selected.gates[block].tolist()
      layers.append({"layer": layer, "experts": experts, "gates": gates})
    else:
      # A router, or the table of the bundle's config, decides among these.
      layers.append({"layer": layer, "candidates": experts})
  return {
    "reduced": True,
    "granularity": str(granularity),
    "becomes": "dense" if small.moe is None else str(small.moe.granularity),
    "layers": layers,
  }

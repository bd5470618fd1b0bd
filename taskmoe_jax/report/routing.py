"""Which experts serve which task, by layer, and how we know."""

import dataclasses

import numpy as np
import scipy.cluster.hierarchy
import scipy.spatial.distance
from etils import epath
from jaxtyping import Float

from taskmoe_jax.export.serving_experts import ByTask, experts_of_checkpoint
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.moe.statistics import overlap
from taskmoe_jax.report.history import RECENT, History
from taskmoe_jax.runs.directory import Run


@dataclasses.dataclass(frozen=True)
class StackRouting:
  """How a stack's experts are shared out among tasks.

  Attributes:
    name: `encoder` or `decoder`.
    about: A sentence: what the weights are, or why there are none.
    layers: Its MoE layers, counted from 0.
    tasks: The tasks whose weights are known.
    weights: The share of each expert in what serves a task's tokens: gates, or
      load. Rows sum to 1.
  """

  name: str
  about: str
  layers: tuple[int, ...] = ()
  tasks: tuple[str, ...] = ()
  weights: Float[np.ndarray, "layers R E"] | None = None


def read_routing(
  run_dir: epath.PathLike, run: Run, history: History, *, step: int
) -> list[StackRouting]:
  """Finds out how encoder and decoder are routed.

  Gates that depend on the task alone are read from the checkpoint, of which
  only routers are loaded. Where tokens or sentences decide, gates depend on the
  text, and what they were in training is in its log.

  Raises:
    TaskMoeError: There is no checkpoint of this step.
  """
  gates, _ = experts_of_checkpoint(run_dir, run.model, run.task_space, step)
  tasks = run.task_space.tasks
  found = []
  for name in ("encoder", "decoder"):
    stack = getattr(run.model, name)
    if stack.moe is None:
      about = "It is dense: it has no experts, and every task meets the same."
      found.append(StackRouting(name, about))
    elif stack.moe.granularity.by_task:
      found.append(_of_gates(name, stack, tasks, gates, step))
    else:
      found.append(
        _of_load(name, stack, tasks, history, step)
        or _of_candidates(name, stack, tasks, gates, step)
      )
  return found


def _of_gates(
  name: str,
  stack: StackConfig,
  tasks: tuple[str, ...],
  gates: ByTask,
  step: int,
) -> StackRouting:
  assert stack.moe is not None
  layers = gates[tasks[0]][name].layers
  weights = np.zeros((len(layers), len(tasks), stack.moe.num_experts))
  for index, task in enumerate(tasks):
    chosen = gates[task][name]
    assert chosen.gates is not None
    np.put_along_axis(weights[:, index], chosen.experts, chosen.gates, axis=-1)
  about = (
    "Dealt out by a fixed table: a task's experts have equal weight."
    if not stack.moe.granularity.has_gate
    else f"The gates of each task's {stack.moe.num_selected} experts, from the"
    f" routers of step {step}: constants of the task, which its sub-network has"
    " folded in."
  )
  return StackRouting(name, about, layers, tasks, weights)


def _of_load(
  name: str,
  stack: StackConfig,
  tasks: tuple[str, ...],
  history: History,
  step: int,
) -> StackRouting | None:
  """None if the log says nothing."""
  moe, layers = stack.require_moe(), tuple(stack.moe_layers)
  loads = [history.task_loads.get(f"{name}/layer_{i}", {}) for i in layers]
  seen = tuple(task for task in tasks if all(task in load for load in loads))
  decides = moe.granularity.decision
  if not seen:
    return None
  weights = np.stack([[load[task] for task in seen] for load in loads])
  about = (
    f"{decides}, so these are no gates but loads: the share of a task's choices"
    f" that fell on each expert, the mean of up to {RECENT} last reports until"
    f" step {step} in metrics.jsonl."
  )
  if missing := [task for task in tasks if task not in seen]:
    about += f" Not seen in training until then: {', '.join(missing)}."
  return StackRouting(name, about, layers, seen, weights)


def _of_candidates(
  name: str,
  stack: StackConfig,
  tasks: tuple[str, ...],
  gates: ByTask,
  step: int,
) -> StackRouting:
  """What is known without a log: a task's candidates, or nothing."""
  moe = stack.require_moe()
  decides = moe.granularity.decision
  no_log = f"metrics.jsonl has no load of tasks up to step {step}"
  if not moe.granularity.has_sub_network:
    about = (
      f"{decides}, so which experts serve a task only the training's log could"
      f" tell: {no_log}."
    )
    return StackRouting(name, about)
  layers = gates[tasks[0]][name].layers
  # A router from outside the package may have another number of its own.
  number = moe.num_candidates or gates[tasks[0]][name].experts.shape[-1]
  weights = np.zeros((len(layers), len(tasks), moe.num_experts))
  for index, task in enumerate(tasks):
    chosen = gates[task][name].experts
    np.put_along_axis(weights[:, index], chosen, 1 / number, -1)
  about = (
    f"{decides}: these are its {number} candidates, from the"
    f" routers of step {step}, all equally strong, since {no_log}."
  )
  return StackRouting(name, about, layers, tasks, weights)


@dataclasses.dataclass(frozen=True)
class Kinship:
  """Which tasks share experts, most alike beside each other.

  Attributes:
    tasks: In the order of the tree's leaves.
    shared: The part of their experts' weight that two tasks have in common,
      the mean over layers, in the order of `tasks`.
    merges: The tree, as scipy's `linkage` gives it, of tasks as they were.
    order: Where the tasks were.
  """

  tasks: tuple[str, ...]
  shared: Float[np.ndarray, "R R"]
  merges: Float[np.ndarray, "_ 4"]
  order: list[int]


def kinship(routing: StackRouting) -> Kinship:
  """Groups the tasks of a stack by the experts that they share.

  Two tasks have in common `sum_e min(w_r, w_s)` of a layer, as in the log's
  `overlap`. Groups are joined by the mean of their tasks (average linkage), and
  of the orders that a tree allows the one is taken that has the most alike
  beside each other. The paper's finding (figures 10 and 11) that languages
  share experts by kinship is then a block on the diagonal.

  Args:
    routing: With weights, of at least two tasks.
  """
  assert routing.weights is not None
  shared = np.mean([overlap(weights) for weights in routing.weights], axis=0)
  apart = np.clip(1.0 - shared, 0.0, 1.0)
  np.fill_diagonal(apart, 0.0)
  merges = scipy.cluster.hierarchy.linkage(
    scipy.spatial.distance.squareform(apart, checks=False),
    method="average",
    optimal_ordering=True,
  )
  order = scipy.cluster.hierarchy.leaves_list(merges).tolist()
  return Kinship(
    tuple(routing.tasks[index] for index in order),
    shared[np.ix_(order, order)],
    merges,
    order,
  )

"""Which experts serve which task, without the experts themselves."""

import functools
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
import rich.console
import rich.table
from etils import epath
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.export.selection import (
  SelectedExperts,
  experts_of_task,
  router_paths,
)
from taskmoe_jax.models import parameters
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.runs.checkpoint_folders import checkpoint_folder
from taskmoe_jax.task_space import TaskSpace

ByTask = dict[str, dict[str, SelectedExperts]]


def experts_of_config(model: ModelConfig, task_space: TaskSpace) -> ByTask:
  """Experts by task and stack, of stacks that have them by a fixed table."""
  return _by_task({}, model, task_space, with_gate=False)


def experts_of_checkpoint(
  run_dir: epath.PathLike,
  model: ModelConfig,
  task_space: TaskSpace,
  step: int | None = None,
) -> tuple[ByTask, int]:
  """Experts by task and stack, and the step of the checkpoint that says so.

  Only routers are read: a few numbers of a checkpoint that may be larger than
  this machine's memory.

  Args:
    run_dir: The run directory.
    model: Of the run.
    task_space: Of the run.
    step: Which checkpoint; the newest unless given.

  Raises:
    TaskMoeError: There is no checkpoint (of that step).
  """
  folder, step = checkpoint_folder(run_dir, step)
  shapes = nn.unbox(
    parameters.abstract_params(Transformer(model, len(task_space.tasks)))
  )
  wanted = _subtree(shapes, router_paths(model))
  params = {}
  if wanted:
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=device
      ),
      wanted,
    )
    with ocp.PyTreeCheckpointer() as checkpointer:
      params = checkpointer.restore(
        folder / "params",
        args=ocp.args.PyTreeRestore(
          item=wanted,
          restore_args=ocp.checkpoint_utils.construct_restore_args(wanted),
          partial_restore=True,
        ),
      )
  return _by_task(params, model, task_space, with_gate=True), step


def _by_task(
  params: PyTree, model: ModelConfig, task_space: TaskSpace, *, with_gate: bool
) -> ByTask:
  found = {}
  for task in task_space.tasks:
    found[task] = experts_of_task(
      params,
      model,
      task_space.task_id(task),
      len(task_space.tasks),
      with_gate=with_gate,
    )
  return found


def _subtree(tree: Mapping, paths: tuple[tuple[str, ...], ...]) -> dict:
  """Only the leaves with these paths."""
  found = {}
  for path in paths:
    *above, last = path
    leaf = functools.reduce(lambda node, name: node[name], path, tree)
    place = found
    for name in above:
      place = place.setdefault(name, {})
    place[last] = leaf
  return found


def print_experts(
  console: rich.console.Console, model: ModelConfig, by_task: ByTask
) -> None:
  """Prints, for each stack, the experts of every task, layer by layer."""
  for name in ("encoder", "decoder"):
    stack = getattr(model, name)
    decided = any(name in chosen for chosen in by_task.values())
    if stack.moe is None:
      line = "dense"
    elif not stack.moe.granularity.has_sub_network:
      line = (
        f"each {stack.moe.granularity.unit} chooses among all"
        f" {stack.moe.num_experts} experts"
      )
    elif not decided:
      line = (
        f"routed by {stack.moe.granularity}: which experts serve which task, a"
        " checkpoint says. Set --run_dir."
      )
    else:
      with_gates = stack.moe.granularity.by_task
      line = f"experts of each task{', and their gates' if with_gates else ''}"
    console.print(
      f"{name}: {line}", highlight=False, markup=False, soft_wrap=True
    )
    if decided:
      console.print(_table(name, by_task))


def _table(stack: str, by_task: ByTask) -> rich.table.Table:
  some = next(iter(by_task.values()))[stack]
  table = rich.table.Table()
  table.add_column("task")
  for layer in some.layers:
    table.add_column(f"layer {layer}")
  for task, chosen in by_task.items():
    experts, gates = chosen[stack].experts, chosen[stack].gates
    cells = []
    for block, row in enumerate(experts):
      if gates is None:
        cells.append(" ".join(map(str, row)))
      else:
        pairs = zip(row, gates[block], strict=True)
        cells.append("  ".join(f"{e}:{gate:.2f}" for e, gate in pairs))
    table.add_row(task, *cells)
  return table

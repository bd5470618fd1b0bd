"""Exports the sub-networks of a run: extract, write, check, describe."""

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import jax
import rich.console
import rich.progress
import rich.table
from etils import epath

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.export import bundle
from taskmoe_jax.export.extract import (
  SelectedExperts,
  extract,
  reducible_stacks,
)
from taskmoe_jax.export.verify import Check, Samples, verify
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.restoring import load_translator
from taskmoe_jax.train.run_directory import load_samples


@dataclasses.dataclass(frozen=True)
class Exported:
  """One bundle that was written.

  Attributes:
    task: Its task.
    folder: Where it is.
    parameters: Of the mixture, and of the sub-network.
    check: How the two compared.
    seconds: What extracting, writing and checking took.
  """

  task: str
  folder: str
  parameters: tuple[int, int]
  check: Check
  seconds: float


def tasks_named(space: TaskSpace, names: str) -> tuple[str, ...]:
  """Tasks for `all`, or a comma-separated list of tasks and pairs.

  A pair stands for its task: routed by target, `de-en` means `en`.
  """
  if names == "all":
    return space.tasks
  tasks = {}
  for name in names.split(","):
    if name in space.tasks:
      tasks[name] = None
    elif name in space.pairs:
      tasks[space.task_of_pair(name)] = None
    else:
      known = dict.fromkeys((*space.tasks, *space.pairs))
      raise TaskMoeError(
        one_of("task", name, ("all", *known)) + ". Set --tasks."
      )
  return tuple(tasks)


def export(
  run_dir: epath.PathLike,
  *,
  tasks: str,
  out: epath.PathLike | None = None,
  step: int | None = None,
  overwrite: bool = False,
  console: rich.console.Console | None = None,
) -> list[Exported]:
  """Writes a bundle for each task, to `OUT/<task>`.

  Every bundle is read back from its files and compared with the mixture on
  sentences that the run kept for this, before it gets its name.

  Args:
    run_dir: The run directory.
    tasks: See `tasks_named`.
    out: `RUN_DIR/export-<step>` unless given.
    step: Which checkpoint; the newest unless given.
    overwrite: Whether bundles that are there may be replaced.
    console: Where the table is shown.

  Raises:
    TaskMoeError: No stack can be reduced, a name is unknown, a bundle is there
      already, or a sub-network is not its mixture.
  """
  console = console or rich.console.Console()
  mixture, step = load_translator(run_dir, step=step)
  reducible_stacks(mixture.model)
  names = tasks_named(mixture.task_space, tasks)
  folder = epath.Path(out or epath.Path(run_dir) / f"export-{step}")
  for name in names:
    bundle.refuse_existing(folder / name, overwrite=overwrite)
  samples = load_samples(run_dir)
  exported = []
  columns = rich.progress.Progress.get_default_columns()
  with rich.progress.Progress(
    *columns, console=console, transient=True
  ) as progress:
    bar = progress.add_task("exporting", total=len(names))
    for name in names:
      progress.update(bar, description=f"exporting {name}")
      exported.append(
        _export(mixture, name, folder / name, samples, run_dir, step, overwrite)
      )
      progress.advance(bar)
  console.print(_table(exported))
  console.print(f"bundles in {folder}", highlight=False, soft_wrap=True)
  return exported


def _export(
  mixture: Translator,
  task: str,
  folder: epath.Path,
  samples: Samples,
  run_dir: epath.PathLike,
  step: int,
  overwrite: bool,
) -> Exported:
  begin = time.perf_counter()
  space = mixture.task_space
  params, config, selected = extract(
    mixture.params, mixture.model, space.task_id(task), len(space.tasks)
  )
  pairs = space.pairs_of_task(task)
  served = TaskSpace.from_pairs(pairs, space.task_by)
  counts = tuple(
    sum(leaf.size for leaf in jax.tree.leaves(tree))
    for tree in (mixture.params, params)
  )
  with bundle.new_folder(folder, overwrite=overwrite) as temporary:
    small = Translator(config, params, served, mixture.vocabulary)
    bundle.write_model(temporary, small)
    check = verify(
      mixture,
      bundle.read_model(temporary),
      {pair: samples[pair] for pair in pairs},
    )
    bundle.write_manifest(
      temporary,
      {
        "task": task,
        "pairs": list(pairs),
        "task_by": str(space.task_by),
        "source": {"run": str(run_dir), "step": step},
        "parameters": {"mixture": counts[0], "bundle": counts[1]},
        "stacks": {
          name: _describe(mixture, name, selected.get(name))
          for name in ("encoder", "decoder")
        },
        "check": dataclasses.asdict(check),
      },
    )
  seconds = time.perf_counter() - begin
  return Exported(task, str(folder), counts, check, seconds)


def _describe(
  mixture: Translator, name: str, selected: SelectedExperts | None
) -> dict[str, Any]:
  """What a manifest says of a stack."""
  moe = getattr(mixture.model, name).moe
  if moe is None:
    return {"reduced": False, "reason": "it is dense"}
  if selected is None:
    return {
      "reduced": False,
      "reason": f"it is routed by {moe.granularity}: its experts depend on the"
      " text, so all are kept",
    }
  described = {"reduced": True, "granularity": str(moe.granularity)}
  if selected.gates is None:
    layers = [
      {"layer": layer, "candidates": experts.tolist()}
      for layer, experts in zip(selected.layers, selected.experts, strict=True)
    ]
  else:
    layers = [
      {"layer": layer, "experts": experts.tolist(), "gates": gates.tolist()}
      for layer, experts, gates in zip(
        selected.layers, selected.experts, selected.gates, strict=True
      )
    ]
  return {**described, "layers": layers}


def _table(exported: Sequence[Exported]) -> rich.table.Table:
  table = rich.table.Table(title="sub-networks")
  table.add_column("task")
  for name in ("parameters", "kept", "max difference", "identical", "seconds"):
    table.add_column(name, justify="right")
  for row in exported:
    full, kept = row.parameters
    check = row.check
    table.add_row(
      row.task,
      f"{full / 1e6:.2f}M",
      f"{kept / 1e6:.2f}M",
      f"{check.max_logit_difference:.1e}",
      f"{check.identical_translations}/{check.sentences}",
      f"{row.seconds:.1f}",
    )
  return table

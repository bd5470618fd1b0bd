"""Exports the sub-networks of a run: extract, write, check, describe."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import rich.console
import rich.progress
from etils import epath

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.export import bundle
from taskmoe_jax.export.exported import Exported, exported_table
from taskmoe_jax.export.extract import (
  SelectedExperts,
  extract,
  reducible_stacks,
)
from taskmoe_jax.export.format_folders import (
  known_scores,
  size_of,
  write_formats,
)
from taskmoe_jax.export.formats import About, Format, formats_named
from taskmoe_jax.export.shrinking import NOTHING, Shrinking, shrink
from taskmoe_jax.export.shrinking_bundles import shrunk_table
from taskmoe_jax.export.shrinking_scores import texts_to_score
from taskmoe_jax.export.verify import Samples, verify
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.checkpoint_folders import checkpoint_folder
from taskmoe_jax.train.restoring import load_translator
from taskmoe_jax.train.run_directory import load_run, load_samples


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
  formats: str = "",
  out: epath.PathLike | None = None,
  step: int | None = None,
  overwrite: bool = False,
  shrinking: Shrinking = NOTHING,
  console: rich.console.Console | None = None,
) -> list[Exported]:
  """Writes a bundle for each task, to `OUT/<task>`.

  Every bundle is read back from its files and compared with the mixture on
  sentences that the run kept for this, before it gets its name; and so is every
  format with the bundle, in its own engine.

  Args:
    run_dir: The run directory.
    tasks: See `tasks_named`.
    formats: For further engines, see `formats_named`.
    out: `RUN_DIR/export-<step>` unless given.
    step: Which checkpoint; the newest unless given.
    overwrite: Whether bundles that are there may be replaced.
    shrinking: What is done to bundles once they are proved to be right.
    console: Where the table is shown.

  Raises:
    TaskMoeError: No stack can be reduced, a name is unknown, an engine cannot
      represent the model, a bundle is there already, or a sub-network is not
      its mixture.
  """
  console = console or rich.console.Console()
  run = load_run(run_dir)
  reducible_stacks(run.model)
  names = tasks_named(run.task_space, tasks)
  writers = formats_named(formats)
  for writer in writers.values():
    writer.refuse(run.model)
  _, step = checkpoint_folder(run_dir, step)
  folder = epath.Path(out or epath.Path(run_dir) / f"export-{step}")
  for name in names:
    bundle.refuse_existing(folder / name, overwrite=overwrite)
  mixture, step = load_translator(run_dir, step=step)
  job = _Job(
    mixture,
    str(run_dir),
    step,
    load_samples(run_dir),
    writers,
    overwrite,
    shrinking,
  )
  exported = _export_all(job, names, folder, console)
  console.print(exported_table(exported))
  shrunk = {row.task: row.shrunk for row in exported if row.shrunk}
  if shrunk:
    console.print(shrunk_table(shrunk))
  console.print(f"bundles in {folder}", highlight=False, soft_wrap=True)
  return exported


@dataclasses.dataclass(frozen=True)
class _Job:
  """What all bundles of an export have in common."""

  mixture: Translator
  run: str
  step: int
  samples: Samples
  formats: Mapping[str, Format]
  overwrite: bool
  shrinking: Shrinking


def _export_all(
  job: _Job,
  names: Sequence[str],
  folder: epath.Path,
  console: rich.console.Console,
) -> list[Exported]:
  """Exports one task after the other, and shows how far it is."""
  exported = []
  columns = rich.progress.Progress.get_default_columns()
  with rich.progress.Progress(
    *columns, console=console, transient=True
  ) as progress:
    # Extracting and writing, checking, and each format.
    phases = 2 + len(job.formats)
    bar = progress.add_task("exporting", total=len(names) * phases)
    for name in names:

      def advance(what: str, name: str = name) -> None:
        progress.update(bar, advance=1, description=f"{name}: {what}")

      progress.update(bar, description=f"{name}: extracting")
      exported.append(_export(job, name, folder / name, advance))
  return exported


def _export(
  job: _Job, task: str, folder: epath.Path, advance: Callable[[str], None]
) -> Exported:
  begin = time.perf_counter()
  mixture = job.mixture
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
  samples = {pair: job.samples[pair] for pair in pairs}
  scores = known_scores(job.run, job.step)
  scores = {pair: scores[pair] for pair in pairs if pair in scores}
  with bundle.new_folder(folder, overwrite=job.overwrite) as temporary:
    bundle.write_model(
      temporary, Translator(config, params, served, mixture.vocabulary)
    )
    advance("checking")
    small = bundle.read_model(temporary)
    check = verify(mixture, small, samples)
    texts = texts_to_score(job.run, pairs, job.shrinking.score)
    shrunk = shrink(temporary, job.shrinking, samples, texts)
    if shrunk:
      counts = (counts[0], shrunk["cost"]["parameters"]["after"])
      small = bundle.read_model(temporary)
    size = size_of(temporary)
    about = About(task, job.run, job.step, counts, scores)
    described = write_formats(
      small, temporary, job.formats, about, samples, advance=advance
    )
    bundle.write_manifest(
      temporary,
      {
        "task": task,
        "pairs": list(pairs),
        "task_by": str(space.task_by),
        "source": {"run": job.run, "step": job.step},
        "parameters": {"mixture": counts[0], "bundle": counts[1]},
        "stacks": {
          name: _describe(mixture, name, selected.get(name))
          for name in ("encoder", "decoder")
        },
        "check": dataclasses.asdict(check),
        **shrunk,
        "scores": scores,
        "formats": described,
      },
    )
  advance("done")
  seconds = time.perf_counter() - begin
  sizes = {"bundle": size}
  sizes |= {name: entry["bytes"] for name, entry in described.items()}
  return Exported(task, str(folder), counts, check, sizes, seconds, shrunk)


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

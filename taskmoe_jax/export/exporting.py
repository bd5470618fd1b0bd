"""Exports the sub-networks of a run: extract, write, check, describe."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import rich.console
import rich.progress
import rich.table
from etils import epath

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import About, Manifest
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.evaluate.groups import average
from taskmoe_jax.export.checkpoint_source import (
  CheckBy,
  LoadedCheckpoint,
  check_bundle,
  choose_check,
  read_checkpoint,
)
from taskmoe_jax.export.extract import extract
from taskmoe_jax.export.formats.folders import write_formats
from taskmoe_jax.export.formats.format import Expected, Format, formats_named
from taskmoe_jax.export.run_texts import (
  bleu_by_pair,
  known_scores,
  texts_to_score,
)
from taskmoe_jax.export.selection import (
  Groups,
  describe_stacks,
  groups_named,
  reducible_stacks,
)
from taskmoe_jax.export.shrinking.bundles import shrunk_table
from taskmoe_jax.export.shrinking.shrink import NOTHING, Shrinking, shrink
from taskmoe_jax.export.slice_check import NumberCheck
from taskmoe_jax.export.verify import Check, Samples
from taskmoe_jax.models.parameters import parameter_count
from taskmoe_jax.runs.checkpoint_folders import checkpoint_folder
from taskmoe_jax.runs.directory import load_run, load_samples
from taskmoe_jax.task_space import TaskSpace


@dataclasses.dataclass(frozen=True)
class Exported:
  """One bundle that was written.

  Attributes:
    task: Its task.
    folder: Where it is.
    parameters: Numbers of the mixture and of the sub-network.
    check: How the two compared.
    bytes: Of the bundle's own files (`bundle`) and of each format, by name.
    seconds: What extracting, writing, checking and scoring took.
    shrunk: What the manifest says of making it smaller; see `shrink`.
    bleu: Mean over pairs, of the mixture and of the bundle; None if not asked
      for, or if the mixture does not fit into memory.
  """

  task: str
  folder: str
  parameters: tuple[int, int]
  check: Check | NumberCheck
  bytes: Mapping[str, int]
  seconds: float
  shrunk: Mapping[str, Any]
  bleu: tuple[float | None, float | None] = (None, None)


def exported_table(exported: Sequence[Exported]) -> rich.table.Table:
  """A line for each bundle; a dash where nothing was measured."""
  formats = exported[0].bytes
  table = rich.table.Table(title="sub-networks")
  table.add_column("task")
  for name in (
    "parameters",
    "kept",
    *(f"{name} MB" for name in formats),
    "max difference",
    "identical",
    "BLEU full",
    "bundle",
    "seconds",
  ):
    table.add_column(name, justify="right")
  for row in exported:
    full, kept = row.parameters
    table.add_row(
      row.task,
      f"{full / 1e6:.2f}M",
      f"{kept / 1e6:.2f}M",
      *(f"{row.bytes[name] / 1e6:.2f}" for name in formats),
      *_compared(row.check),
      *("-" if bleu is None else f"{bleu:.1f}" for bleu in row.bleu),
      f"{row.seconds:.1f}",
    )
  return table


def _compared(check: Check | NumberCheck) -> tuple[str, str]:
  if isinstance(check, NumberCheck):
    return "-", f"{check.numbers / 1e6:.2f}M numbers"
  return (
    f"{check.max_logit_difference:.1e}",
    f"{check.identical_translations}/{check.sentences}",
  )


def export(
  run_dir: epath.PathLike,
  *,
  tasks: str | None = None,
  union: str = "",
  formats: str = "",
  check: CheckBy | str = CheckBy.AUTO,
  score: int = 0,
  out: epath.PathLike | None = None,
  step: int | None = None,
  overwrite: bool = False,
  shrinking: Shrinking = NOTHING,
  console: rich.console.Console | None = None,
) -> list[Exported]:
  """Writes a bundle for each task, to `OUT/<task>`.

  Every bundle is read back from its files and compared with the mixture before
  it gets its name; and every format with the bundle, in its own engine.

  Args:
    run_dir: The run directory.
    tasks: See `groups_named`.
    union: See `groups_named`; goes to `OUT/<task>+<task>`.
    formats: For further engines, see `formats_named`.
    check: With the whole mixture in memory, or number by number without it.
    score: Sentences of each pair to count BLEU on, of mixture and bundle.
    out: `RUN_DIR/export-<step>` unless given.
    step: Which checkpoint; the newest unless given.
    overwrite: Whether bundles that are there may be replaced.
    shrinking: What is done to bundles once they are proved to be right.
    console: Where the table is shown.

  Raises:
    TaskMoeError: No stack can be reduced, a name is unknown, an engine cannot
      run the model, a bundle is there, or a sub-network is not its mixture.
  """
  console = console or rich.console.Console()
  run = load_run(run_dir)
  reducible_stacks(run.model)
  groups = groups_named(run.task_space, tasks, union)
  writers = formats_named(formats)
  for writer in writers.values():
    writer.refuse(run.model)
  how = choose_check(check, run.model, run.task_space, console)
  _, step = checkpoint_folder(run_dir, step)
  folder = epath.Path(out or epath.Path(run_dir) / f"export-{step}")
  for name in groups:
    bundle.refuse_existing(folder / name, overwrite=overwrite)
  columns = rich.progress.Progress.get_default_columns()
  with rich.progress.Progress(
    *columns, console=console, transient=True
  ) as progress:
    checkpoint = read_checkpoint(run, run_dir, step, how, progress)
    job = _Job(
      checkpoint, writers, load_samples(run_dir), score, overwrite, shrinking
    )
    exported = _export_all(job, groups, folder, progress)
  _report(exported, folder, console)
  return exported


def _report(
  exported: Sequence[Exported],
  folder: epath.Path,
  console: rich.console.Console,
) -> None:
  """Prints what was exported, and what was made smaller."""
  console.print(exported_table(exported))
  shrunk = {row.task: row.shrunk for row in exported if row.shrunk}
  if shrunk:
    console.print(shrunk_table(shrunk))
  console.print(f"bundles in {folder}", highlight=False, soft_wrap=True)


@dataclasses.dataclass(frozen=True)
class _Job:
  """What all bundles of an export have in common."""

  checkpoint: LoadedCheckpoint
  formats: Mapping[str, Format]
  samples: Samples
  score: int
  overwrite: bool
  shrinking: Shrinking


def _export_all(
  job: _Job,
  groups: Groups,
  folder: epath.Path,
  progress: rich.progress.Progress,
) -> list[Exported]:
  """Exports one bundle after the other, and shows how far it is."""
  exported = []
  # Extracting and writing, checking, each format, and scoring.
  phases = 2 + len(job.formats) + bool(job.score)
  bar = progress.add_task("exporting", total=len(groups) * phases)
  for name, tasks in groups.items():

    def advance(what: str, name: str = name) -> None:
      progress.update(bar, advance=1, description=f"{name}: {what}")

    progress.update(bar, description=f"{name}: extracting")
    exported.append(_export(job, name, tasks, folder / name, advance))
  return exported


def _export(
  job: _Job,
  name: str,
  tasks: Sequence[str],
  folder: epath.Path,
  advance: Callable[[str], None],
) -> Exported:
  begin = time.perf_counter()
  checkpoint = job.checkpoint
  space = checkpoint.run.task_space
  pairs = tuple(p for p in space.pairs if space.task_of_pair(p) in tasks)
  served = TaskSpace.from_pairs(pairs, space.task_by)
  # In the order in which the bundle counts them.
  task_ids = tuple(map(space.task_id, served.tasks))
  params, config, selected = extract(
    checkpoint.params, checkpoint.run.model, task_ids, len(space.tasks)
  )
  counts = (parameter_count(checkpoint.params), parameter_count(params))
  samples = {pair: job.samples[pair] for pair in pairs}
  scores = known_scores(checkpoint.run_dir, checkpoint.step)
  scores = {pair: scores[pair] for pair in pairs if pair in scores}
  about = About(name, checkpoint.run_dir, checkpoint.step, counts, scores)
  with bundle.new_folder(folder, overwrite=job.overwrite) as temporary:
    content = bundle.Content(config, params, served, checkpoint.run.vocabulary)
    bundle.write_model(temporary, content)
    # What was extracted is not held while what was written is read.
    del params, content
    advance("checking")
    check = check_bundle(checkpoint, temporary, task_ids, selected, samples)
    texts = texts_to_score(checkpoint.run_dir, pairs, job.shrinking.score)
    shrunk = shrink(temporary, job.shrinking, samples, texts)
    if shrunk:
      counts = (counts[0], shrunk["cost"]["parameters"]["after"])
      about = dataclasses.replace(about, parameters=counts)
    size = bundle.size_of(temporary)
    formats = _formats(job, temporary, about, samples, advance)
    bleu = _bleu(job, temporary, pairs, advance)
    manifest = Manifest.of(
      about,
      served,
      stacks=describe_stacks(checkpoint.run.model, config, selected),
      check={"by": checkpoint.checked_by, **dataclasses.asdict(check)},
      bleu=bleu,
      formats=formats,
      **shrunk,
    )
    bundle.write_manifest(temporary, manifest)
  advance("done")
  means = {of: average(found) for of, found in bleu.items()}
  return Exported(
    name,
    str(folder),
    counts,
    check,
    {"bundle": size, **{of: said["bytes"] for of, said in formats.items()}},
    time.perf_counter() - begin,
    shrunk,
    bleu=(means.get("mixture"), means.get("bundle")),
  )


def _formats(
  job: _Job,
  folder: epath.Path,
  about: About,
  samples: Samples,
  advance: Callable[[str], None],
) -> dict[str, dict[str, Any]]:
  """Writes all formats; the bundle is read only if there is one."""
  if not job.formats:
    return {}
  expected = Expected(bundle.read_model(folder), samples)
  return write_formats(expected, folder, job.formats, about, advance=advance)


def _bleu(
  job: _Job,
  folder: epath.Path,
  pairs: tuple[str, ...],
  advance: Callable[[str], None],
) -> dict[str, dict[str, float]]:
  """BLEU by pair of the mixture, if it is in memory, and of the bundle."""
  texts = texts_to_score(job.checkpoint.run_dir, pairs, job.score)
  if not texts:
    return {}
  advance("scoring")
  models = {"bundle": bundle.read_model(folder)}
  if isinstance(job.checkpoint.run, Translator):
    models = {"mixture": job.checkpoint.run, **models}
  return {name: bleu_by_pair(model, texts) for name, model in models.items()}

"""Exports pruned models: rank experts, prune, write, score before and after."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence

import rich.console
import rich.progress
from etils import epath
from jaxtyping import PyTree

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import Manifest, Origin, ParameterCounts
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.texts import PairText
from taskmoe_jax.export.extract import extract
from taskmoe_jax.export.pruning.choosing import (
  Kept,
  PruneMetric,
  Pruning,
  Scores,
  choose_experts,
  prunable_stacks,
  prune,
)
from taskmoe_jax.export.pruning.plans import (
  Plan,
  Pruned,
  plans_named,
  pruned_table,
)
from taskmoe_jax.export.pruning.statistics import (
  OfPair,
  gate_statistics,
  mean_scores,
  use_in_training,
)
from taskmoe_jax.export.run_texts import ScoresOfPairs, score_pairs
from taskmoe_jax.export.verify import Samples
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.models.parameters import parameter_count
from taskmoe_jax.runs.restoring import load_translator
from taskmoe_jax.task_space import TaskSpace

# Sentences of some pairs: (part, pairs, the first so many of each).
ReadText = Callable[[str, Sequence[str], int], Samples]


def export_pruned(
  run_dir: epath.PathLike,
  pruning: Pruning,
  read_text: ReadText,
  *,
  tasks: str,
  examples: int,
  scored: int,
  out: epath.PathLike | None = None,
  step: int | None = None,
  overwrite: bool = False,
  console: rich.console.Console | None = None,
) -> list[Pruned]:
  """Writes a pruned bundle for each task, or pair, to `OUT/<name>`.

  Experts are ranked on the validation part, and the models scored on the test
  part: pruning must not be told what it is measured with. Stacks that a task
  routes are reduced exactly beside the pruned one.

  Args:
    run_dir: The run directory.
    pruning: How many experts go, and which.
    read_text: Gives sentences with references.
    tasks: See `plans_named`.
    examples: Sentences of each pair to rank experts on.
    scored: Sentences of each pair to translate with the mixture and with the
      pruned model; 0 scores nothing.
    out: `RUN_DIR/pruned-<step>` unless given.
    step: Which checkpoint; the newest unless given.
    overwrite: Whether bundles that are there may be replaced.
    console: Where the table is shown.

  Raises:
    TaskMoeError: No stack is routed by text, too few experts would be left, a
      name is unknown, or a bundle is there already.
  """
  _check_numbers(examples, scored)
  console = console or rich.console.Console()
  mixture, step = load_translator(run_dir, step=step)
  stacks = prunable_stacks(mixture.model)
  plans = plans_named(mixture.task_space, mixture.model, tasks, pruning.by)
  folder = epath.Path(out or epath.Path(run_dir) / f"pruned-{step}")
  for plan in plans:
    bundle.refuse_existing(folder / plan.name, overwrite=overwrite)
  job = _Job(mixture, str(run_dir), step, pruning, stacks, overwrite)
  rows = _export_all(job, plans, folder, read_text, examples, scored, console)
  console.print(pruned_table(rows, stacks))
  console.print(f"bundles in {folder}", highlight=False, soft_wrap=True)
  return rows


@dataclasses.dataclass(frozen=True)
class _Job:
  """What all bundles have in common."""

  mixture: Translator
  run: str
  step: int
  pruning: Pruning
  stacks: Mapping[str, StackConfig]
  overwrite: bool


def _export_all(
  job: _Job,
  plans: Sequence[Plan],
  folder: epath.Path,
  read_text: ReadText,
  examples: int,
  scored: int,
  console: rich.console.Console,
) -> list[Pruned]:
  """Ranks, and then exports one bundle after the other; shows how far it is."""
  columns = rich.progress.Progress.get_default_columns()
  with rich.progress.Progress(
    *columns, console=console, transient=True
  ) as progress:
    statistics = _statistics(job, plans, read_text, examples, progress)
    # All are chosen before the first is written, so that nothing is refused
    # half way.
    kept = [
      choose_experts(_rank(job, plan, statistics), job.stacks, job.pruning)
      for plan in plans
    ]
    pairs = list(dict.fromkeys(pair for plan in plans for pair in plan.pairs))
    text = read_text("test", pairs, scored) if scored else {}
    before = _score(job.mixture, text, progress, "mixture")
    return [
      _export(job, plan, experts, folder, text, before, progress)
      for plan, experts in zip(plans, kept, strict=True)
    ]


def _check_numbers(examples: int, scored: int) -> None:
  if examples < 1:
    raise TaskMoeError(
      f"{examples} examples are too few to rank experts on: at least 1. Set"
      " --examples."
    )
  if scored < 0:
    raise TaskMoeError(f"prune_score={scored} is below 0. Set --score.")


def _statistics(
  job: _Job,
  plans: Sequence[Plan],
  read_text: ReadText,
  examples: int,
  progress: rich.progress.Progress,
) -> dict[str, OfPair]:
  """Of all pairs that a plan ranks by; none where training's use ranks."""
  if job.pruning.metric is PruneMetric.USE:
    return {}
  pairs = list(
    dict.fromkeys(
      pair for plan in plans for name in job.stacks for pair in plan.ranks[name]
    )
  )
  samples = read_text("validation", pairs, examples)
  total = sum(map(len, samples.values()))
  bar = progress.add_task("reading gates", total=total)
  return gate_statistics(
    job.mixture, samples, progress=lambda n: progress.advance(bar, n)
  )


def _rank(job: _Job, plan: Plan, statistics: Mapping[str, OfPair]) -> Scores:
  if job.pruning.metric is PruneMetric.USE:
    return use_in_training(job.run, job.stacks, plan.tasks, job.step)
  return {
    name: mean_scores(
      [statistics[pair][name] for pair in plan.ranks[name]], job.pruning.metric
    )
    for name in job.stacks
  }


def _score(
  translator: Translator,
  text: Samples,
  progress: rich.progress.Progress,
  name: str,
) -> ScoresOfPairs:
  bar = progress.add_task(
    f"translating: {name}", total=sum(map(len, text.values()))
  )
  found = score_pairs(
    translator,
    {pair: PairText.of_rows(rows) for pair, rows in text.items()},
    progress=lambda n: progress.advance(bar, n),
  )
  progress.remove_task(bar)
  return found


def _export(
  job: _Job,
  plan: Plan,
  kept: Kept,
  folder: epath.Path,
  text: Samples,
  before: ScoresOfPairs,
  progress: rich.progress.Progress,
) -> Pruned:
  begin = time.perf_counter()
  mixture = job.mixture
  params, config = _small(mixture, plan, kept)
  served = TaskSpace.from_pairs(plan.pairs, mixture.task_space.task_by)
  counts = (parameter_count(mixture.params), parameter_count(params))
  with bundle.new_folder(
    folder / plan.name, overwrite=job.overwrite
  ) as temporary:
    small = Translator(config, params, served, mixture.vocabulary)
    bundle.write_model(temporary, small)
    small = bundle.read_model(temporary)
    of_plan = {pair: text[pair] for pair in plan.pairs if pair in text}
    after = _score(small, of_plan, progress, plan.name)
    bundle.write_manifest(
      temporary, _manifest(job, plan, kept, counts, before, after)
    )
  return Pruned(
    plan.name,
    str(folder / plan.name),
    counts,
    {name: [len(ids) for ids in blocks] for name, blocks in kept.items()},
    {pair: (before[pair], after[pair]) for pair in after},
    time.perf_counter() - begin,
  )


def _small(
  mixture: Translator, plan: Plan, kept: Kept
) -> tuple[PyTree, ModelConfig]:
  """The sub-network of the plan's task if it has one, and then pruned."""
  params, config = mixture.params, mixture.model
  if plan.extracted:
    space = mixture.task_space
    task_id = space.task_id(plan.tasks[0])
    params, config, _ = extract(params, config, (task_id,), len(space.tasks))
  return prune(params, config, kept)


def _manifest(
  job: _Job,
  plan: Plan,
  kept: Kept,
  parameters: tuple[int, int],
  before: ScoresOfPairs,
  after: ScoresOfPairs,
) -> Manifest:
  stacks = {
    name: {
      "pruned": True,
      "layers": [
        {"layer": layer, "experts": ids.tolist()}
        for layer, ids in zip(job.stacks[name].moe_layers, blocks, strict=True)
      ],
    }
    for name, blocks in kept.items()
  }
  return Manifest(
    task=plan.name,
    pairs=tuple(plan.pairs),
    task_by=str(job.mixture.task_space.task_by),
    source=Origin(job.run, job.step),
    parameters=ParameterCounts(*parameters),
    stacks=stacks,
    pruning={
      name: value if isinstance(value, float | None) else str(value)
      for name, value in dataclasses.asdict(job.pruning).items()
    },
    check={
      "exact": False,
      "mixture": {pair: before[pair] for pair in after},
      "bundle": after,
    },
    scores={pair: found["bleu"] for pair, found in after.items()},
  )

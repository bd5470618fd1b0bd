"""Which pruned bundles there are, and whose statistics rank their experts."""

import dataclasses
from collections.abc import Mapping, Sequence

import rich.table

from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.evaluate.groups import average
from taskmoe_jax.export.pruning.choosing import PruneBy
from taskmoe_jax.export.selection import tasks_named
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.task_space import TaskSpace, split_pair


@dataclasses.dataclass(frozen=True)
class Pruned:
  """One bundle that was written.

  Attributes:
    name: Its task or pair.
    folder: Where it is.
    parameters: Numbers of the mixture and of the bundle.
    kept: How many experts each block keeps, by stack.
    scores: By pair, of the mixture and of the bundle; see `score_pairs`. Empty
      if nothing was scored.
    seconds: What writing and scoring took.
  """

  name: str
  folder: str
  parameters: tuple[int, int]
  kept: Mapping[str, Sequence[int]]
  scores: Mapping[str, tuple[Mapping[str, float], Mapping[str, float]]]
  seconds: float

  def mean(self, metric: str) -> tuple[float, float] | None:
    """Mean over pairs, before and after."""
    if not self.scores:
      return None
    before, after = (
      average({pair: both[side][metric] for pair, both in self.scores.items()})
      for side in (0, 1)
    )
    return before, after


def pruned_table(
  rows: Sequence[Pruned], stacks: Mapping[str, StackConfig]
) -> rich.table.Table:
  """Shows sizes, and mean BLEU and chrF over a bundle's pairs."""
  table = rich.table.Table(title="pruned models: experts, size, quality")
  table.add_column("bundle")
  for name in (
    *stacks,
    "parameters",
    "kept",
    "BLEU",
    "pruned",
    "chrF",
    "pruned",
    "seconds",
  ):
    table.add_column(name, justify="right")
  for row in rows:
    full, kept = row.parameters
    table.add_row(
      row.name,
      *(
        f"{_spread(row.kept[name])}/{stack.require_moe().num_experts}"
        for name, stack in stacks.items()
      ),
      f"{full / 1e6:.2f}M",
      f"{kept / 1e6:.2f}M",
      *_shown(row.mean("bleu")),
      *_shown(row.mean("chrf")),
      f"{row.seconds:.1f}",
    )
  return table


def _spread(counts: Sequence[int]) -> str:
  fewest, most = min(counts), max(counts)
  return f"{most}" if fewest == most else f"{fewest}-{most}"


def _shown(means: tuple[float, float] | None) -> tuple[str, str]:
  if means is None:
    return "-", "-"
  return f"{means[0]:.2f}", f"{means[1]:.2f}"


# Name of a bundle for everything that was asked for.
_ALL = "pruned"


@dataclasses.dataclass(frozen=True)
class Plan:
  """One bundle.

  Attributes:
    name: The name of its folder.
    pairs: What it translates.
    tasks: Of these pairs.
    ranks: The pairs whose statistics rank the experts of each stack.
    extracted: Whether a stack is routed by task, and is reduced to its part.
  """

  name: str
  pairs: tuple[str, ...]
  tasks: tuple[str, ...]
  ranks: Mapping[str, tuple[str, ...]]
  extracted: bool


def plans_named(
  space: TaskSpace, model: ModelConfig, names: str, by: PruneBy
) -> list[Plan]:
  """Bundles for `all`, or for a comma-separated list of tasks and pairs.

  Pruned by task, a pair means its task; pruned by pair or language, a task
  means its pairs.

  Raises:
    TaskMoeError: A name is unknown; or one bundle for all is asked of a model
      that has a stack routed by task.
  """
  by_task = [
    name
    for name in ("encoder", "decoder")
    if (moe := getattr(model, name).moe) and moe.granularity.has_sub_network
  ]
  if by_task and by is PruneBy.ALL:
    raise TaskMoeError(
      f"prune_by 'all' keeps all tasks in one bundle, and the {by_task[0]} is"
      " reduced to one task's. Set --by to 'task', 'pair' or 'language'."
    )

  def plan(name: str, pairs: tuple[str, ...], ranks=None) -> Plan:
    ranks = ranks or {"encoder": pairs, "decoder": pairs}
    tasks = tuple(dict.fromkeys(map(space.task_of_pair, pairs)))
    return Plan(name, pairs, tasks, ranks, bool(by_task))

  if by is PruneBy.TASK:
    return [
      plan(task, space.pairs_of_task(task))
      for task in tasks_named(space, names)
    ]
  pairs = _pairs_named(space, names)
  if by is PruneBy.ALL:
    return [plan(_ALL, pairs)]
  if by is PruneBy.PAIR:
    return [plan(pair, (pair,)) for pair in pairs]
  return [plan(pair, (pair,), _of_languages(space, pair)) for pair in pairs]


def _pairs_named(space: TaskSpace, names: str) -> tuple[str, ...]:
  if names == "all":
    return space.pairs
  pairs: dict[str, None] = {}
  for name in names.split(","):
    if name in space.pairs:
      pairs[name] = None
    elif name in space.tasks:
      pairs |= dict.fromkeys(space.pairs_of_task(name))
    else:
      known = dict.fromkeys((*space.tasks, *space.pairs))
      raise TaskMoeError(
        one_of("task or pair", name, ("all", *known)) + ". Set --tasks."
      )
  return tuple(pairs)


def _of_languages(space: TaskSpace, pair: str) -> dict[str, tuple[str, ...]]:
  """All pairs from its source, and all pairs into its target."""
  source, target = split_pair(pair)
  return {
    "encoder": tuple(p for p in space.pairs if split_pair(p)[0] == source),
    "decoder": tuple(p for p in space.pairs if split_pair(p)[1] == target),
  }

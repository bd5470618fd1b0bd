"""What pruning has written, and the table of it."""

import dataclasses
import statistics
from collections.abc import Mapping, Sequence

import rich.table

from taskmoe_jax.models.config import StackConfig


@dataclasses.dataclass(frozen=True)
class Pruned:
  """One bundle that was written.

  Attributes:
    name: Its task or pair.
    folder: Where it is.
    parameters: Of the mixture, and of the bundle.
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
    before, after = zip(*self.scores.values(), strict=True)
    return tuple(
      statistics.fmean(found[metric] for found in side)
      for side in (before, after)
    )


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
        f"{_spread(row.kept[name])}/{stack.moe.num_experts}"
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
  least, most = min(counts), max(counts)
  return f"{most}" if least == most else f"{least}-{most}"


def _shown(means: tuple[float, float] | None) -> tuple[str, str]:
  return tuple(f"{mean:.2f}" for mean in means) if means else ("-", "-")

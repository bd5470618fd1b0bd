"""What an export has written, and the table of it."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import rich.table

from taskmoe_jax.export.slices import SliceCheck
from taskmoe_jax.export.verify import Check


@dataclasses.dataclass(frozen=True)
class Exported:
  """One bundle that was written.

  Attributes:
    task: Its task.
    folder: Where it is.
    parameters: Of the mixture, and of the sub-network.
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
  check: Check | SliceCheck
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


def _compared(check: Check | SliceCheck) -> tuple[str, str]:
  if isinstance(check, SliceCheck):
    return "-", f"{check.numbers / 1e6:.2f}M numbers"
  return (
    f"{check.max_logit_difference:.1e}",
    f"{check.identical_translations}/{check.sentences}",
  )

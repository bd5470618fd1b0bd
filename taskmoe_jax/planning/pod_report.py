"""The report on a step compiled for a topology, as tables and as JSON."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import rich.console
import rich.table

from taskmoe_jax.planning.collectives import Collective
from taskmoe_jax.planning.communication_bound import CommunicationBound
from taskmoe_jax.planning.memory import DeviceMemory, Temporary
from taskmoe_jax.planning.time_estimate import TimeEstimate

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Report:
  """One step, compiled for one topology.

  Attributes:
    name: What was compiled: recipe, step, topology.
    mesh: Sizes of the mesh axes.
    devices: Number of `jax.Device`s in all slices.
    parameters: Number of parameters of the model.
    hbm_bytes: Main memory of a device.
    memory: How much of it the step needs; where the compiler refused, all that
      is not arguments counts as temporaries.
    fits: Whether the compiler accepted it and it needs no more than this.
    flops: FLOPs of one device; None where the compiler refused.
    model_flops: FLOPs of one device that the mathematics needs.
    peak_flops: FLOP/s of a device.
    time: Estimated seconds; None without an estimate.
    collectives: What is sent; None where the compiler refused.
    communication_bound: The minimum that has to be sent; None where it is not
      known (all steps except training).
    compile_s: Seconds that compiling took.
    temporaries: The five largest.
  """

  name: str
  mesh: Mapping[str, int]
  devices: int
  parameters: int
  hbm_bytes: int
  memory: DeviceMemory
  fits: bool
  flops: float | None
  model_flops: float
  peak_flops: float
  time: TimeEstimate | None
  collectives: Sequence[Collective] | None
  communication_bound: CommunicationBound | None
  compile_s: float
  temporaries: Sequence[Temporary]

  @property
  def estimate_s(self) -> float | None:
    return self.time.total if self.time else None

  @property
  def mfu(self) -> float | None:
    """Model FLOPs over what the chip could have done in the estimated time."""
    if not self.estimate_s:
      return None
    return self.model_flops / (self.estimate_s * self.peak_flops)

  @property
  def verdict(self) -> str:
    spare = self.hbm_bytes - self.memory.total
    gib = abs(spare) / _GIB
    if self.fits:
      return f"fits, {gib:.2f} GiB to spare"
    if spare >= 0:
      return "does not fit, as the compiler lays it out"
    return f"does not fit, by {gib:.2f} GiB"

  def to_dict(self) -> dict[str, Any]:
    """For JSON. FLOPs and bytes are those of one device."""
    rows = None
    if self.collectives is not None:
      rows = [_row(c, self.communication_bound) for c in self.collectives]
    return {
      "devices": self.devices,
      "parameters": self.parameters,
      "hbm_bytes": self.hbm_bytes,
      "device_bytes": self.memory.total,
      "fits": self.fits,
      "flops": self.flops,
      "model_flops": self.model_flops,
      "estimate_s": self.estimate_s,
      "collectives": rows,
      "compile_s": self.compile_s,
    }


def _row(found: Collective, bound: CommunicationBound | None) -> dict[str, Any]:
  needed = None
  if bound is not None:
    needed = bound.get((found.kind, found.axes), 0)
  return {
    "kind": found.kind,
    "axes": list(found.axes),
    "network": found.network,
    "count": found.count,
    "bytes": found.num_bytes,
    "least_bytes": needed,
    "ici_bytes": found.ici_bytes,
    "dcn_bytes": found.dcn_bytes,
  }


def gib(num_bytes: int) -> str:
  return f"{num_bytes / _GIB:.2f} GiB"


def megabytes(num_bytes: int) -> str:
  return f"{num_bytes / 1e6:,.1f} MB"


def seconds(value: float | None) -> str:
  if value is None:
    return "no estimate"
  return f"{1e3 * value:,.1f} ms" if value >= 1e-3 else f"{1e6 * value:.1f} µs"


def flops(value: float) -> str:
  return f"{value / 1e12:.3f} T" if value >= 1e11 else f"{value / 1e9:.3f} G"


def summary(report: Report) -> dict[str, str]:
  """The lines of the first table, in words."""
  memory = report.memory
  computed = "not compiled"
  if report.flops is not None:
    ratio = report.flops / report.model_flops
    computed = f"{flops(report.flops)}, {ratio:.2f} x the model's"
  time = report.time
  lines = {
    "mesh": ", ".join(f"{name} {n}" for name, n in report.mesh.items()),
    "devices": str(report.devices),
    "parameters": f"{report.parameters / 1e6:,.1f}M",
    "memory of a device": f"{gib(memory.total)} of {gib(report.hbm_bytes)}:"
    f" {report.verdict}",
    "  arguments": gib(memory.arguments),
    "  temporaries": gib(memory.temporaries),
    "  output": f"{gib(memory.output)}, {gib(memory.shared)} of it in place",
    "FLOPs of a device": computed,
    "model FLOPs": f"{flops(report.model_flops)} a device",
    "estimate of a step": seconds(report.estimate_s),
  }
  if time:
    lines["  computing"] = seconds(time.compute)
    if time.kernels:
      lines["    in kernels, at the peak"] = seconds(time.kernels)
    lines["  sending"] = (
      f"{seconds(time.ici)} within slices, {seconds(time.dcn)} between"
    )
    if time.total is not None:
      lines["  not hidden"] = seconds(time.exposed)
  if report.mfu is not None:
    lines["MFU it implies"] = f"{report.mfu:.1%}"
  lines["compiled in"] = f"{report.compile_s:.0f} s"
  return lines


def print_report(console: rich.console.Console, report: Report) -> None:
  table = rich.table.Table(title=report.name, show_header=False)
  for line in summary(report).items():
    table.add_row(*line)
  console.print(table)
  if report.collectives or report.communication_bound:
    console.print(_collectives_table(report))
  elif report.collectives is not None:
    console.print("nothing is sent between devices")
  if report.temporaries:
    table = rich.table.Table(title="largest temporaries")
    for column in ("array", "size", "made by"):
      table.add_column(column, overflow="fold")
    for found in report.temporaries:
      table.add_row(found.shape, megabytes(found.num_bytes), found.origin)
    console.print(table)


def _collectives_table(report: Report) -> rich.table.Table:
  table = rich.table.Table(title="what one device sends in a step")
  for column in ("collective", "axes", "network"):
    table.add_column(column)
  for column in ("count", "bytes", "minimum", "over ICI", "over DCN"):
    table.add_column(column, justify="right")
  minimum = dict(report.communication_bound or {})
  for found in report.collectives or ():
    needed = minimum.pop((found.kind, found.axes), 0)
    table.add_row(
      found.kind,
      ", ".join(found.axes) or "other",
      found.network,
      str(found.count),
      megabytes(found.num_bytes),
      megabytes(needed) if needed else "-",
      megabytes(found.ici_bytes),
      megabytes(found.dcn_bytes),
    )
  for (kind, names), needed in minimum.items():
    table.add_row(
      kind, ", ".join(names), "", "0", "-", megabytes(needed), "-", "-"
    )
  return table


def print_comparison(
  console: rich.console.Console, reports: Sequence[Report]
) -> None:
  """One column per report; ratios are relative to the first."""
  table = rich.table.Table()
  table.add_column("")
  for report in reports:
    table.add_column(report.name, justify="right", overflow="fold")
  for label in dict.fromkeys(name for r in reports for name in summary(r)):
    table.add_row(label, *(summary(r).get(label, "-") for r in reports))
  compared: dict[str, list[float | None]] = {
    "estimate x first": [r.estimate_s for r in reports],
    "FLOPs x first": [r.flops for r in reports],
    "memory x first": [r.memory.total for r in reports],
    "sent x first": [_sent(r) for r in reports],
  }
  for label, values in compared.items():
    first = values[0]
    table.add_row(
      label,
      *(
        f"{value / first:.3f}" if first and value is not None else "-"
        for value in values
      ),
    )
  console.print(table)


def _sent(report: Report) -> int | None:
  if report.collectives is None:
    return None
  return sum(c.ici_bytes + c.dcn_bytes for c in report.collectives)

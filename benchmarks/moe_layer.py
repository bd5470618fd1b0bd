"""One MoE layer against a dense feed-forward of the same active width.

On the devices at hand, by time, all programs in turn in one process:

  python benchmarks/moe_layer.py --experts=8,32
  python benchmarks/moe_layer.py --experts=8,32 --decode

For a TPU that is not there, by compiling and reading the compiler's estimates
(needs libtpu: pip install 'taskmoe-jax[tpu]'):

  python benchmarks/moe_layer.py --topology=v3:4x4 --experts=32 --mesh=1,-1,1 \\
    --rows=64 --length=128 --embed_dim=512 --mlp_dim=2048 --groups=1

The layer is whole: router, dispatch, experts, losses. Training is forward and
backward: the output, and gradients of tokens and of all weights. `--json` makes
one row an engine; a ratio is against the dense layer, `null` where there is no
estimate.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table
from jax.experimental import topologies

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from benchmarks.layer_programs import DENSE, Setting, compiled, runner
from taskmoe_jax.hosts.memory import keep_freed_memory
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning

# Engine and granularity; `dense` has neither.
CASES = (
  ("capacity", "token"),
  ("dropless", "token"),
  ("capacity", "task"),
  ("dropless", "task"),
  ("expert_fetch", "task"),
  ("auto", "token"),
  ("auto", "task"),
)


def measured(
  setting: Setting, cases: list[tuple[str, str]], *, run: bool, repeats: int
) -> list[dict[str, Any]]:
  """One row for each engine, the dense layer first."""
  builds = {case: compiled(setting, case) for case in [DENSE, *cases]}
  costs = {case: measure.cost_of(build[0]) for case, build in builds.items()}
  seconds = {case: cost.seconds for case, cost in costs.items()}
  spread = {}
  if run:
    times = measure.times_of(
      {case: runner(setting, *build) for case, build in builds.items()},
      repeats,
    )
    seconds = {case: float(np.median(found)) for case, found in times.items()}
    spread = {case: float(found.min()) for case, found in times.items()}
  base = costs[DENSE], seconds[DENSE]

  def ratio(value, of):
    return value / of if value and of else None

  rows = []
  for case, cost in costs.items():
    fastest = ratio(spread.get(case), spread.get(DENSE))
    rows.append(
      {
        "engine": case[0],
        "granularity": case[1],
        "experts": setting.experts,
        "seconds": seconds[case],
        "time_ratio": ratio(seconds[case], base[1]),
        "fastest_time_ratio": fastest,
        "flops": cost.flops,
        "flops_ratio": ratio(cost.flops, base[0].flops),
        "bytes_ratio": ratio(cost.bytes, base[0].bytes),
        "memory_bytes": cost.memory,
        "all_to_all_bytes": cost.communication.get("all-to-all", 0),
        "all_gather_bytes": cost.communication.get("all-gather", 0),
        "all_reduce_bytes": cost.communication.get("all-reduce", 0),
      }
    )
  return rows


def show(console: rich.console.Console, title: str, rows: list[dict]) -> None:
  table = rich.table.Table(title=title)
  for name in ("engine", "granularity", "ms", "x dense", "fastest x dense"):
    table.add_column(name, justify="left" if "g" in name[:3] else "right")
  for name in (
    "FLOPs x",
    "bytes x",
    "temp MB",
    "a2a MB",
    "gather MB",
    "reduce MB",
  ):
    table.add_column(name, justify="right")

  def number(value, digits=2, scale=1.0):
    return "-" if value is None else f"{value * scale:.{digits}f}"

  for row in rows:
    table.add_row(
      row["engine"],
      row["granularity"],
      number(row["seconds"], 3, 1e3),
      number(row["time_ratio"]),
      number(row["fastest_time_ratio"]),
      number(row["flops_ratio"], 3),
      number(row["bytes_ratio"]),
      number(row["memory_bytes"], 1, 1e-6),
      number(row["all_to_all_bytes"], 1, 1e-6),
      number(row["all_gather_bytes"], 2, 1e-6),
      number(row["all_reduce_bytes"], 1, 1e-6),
    )
  console.print(table)


def devices_of(topology: str | None) -> list[jax.Device]:
  if topology is None:
    return jax.devices()
  # Otherwise libtpu asks a cloud's metadata server what it runs on.
  os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
  found = topologies.get_topology_desc(platform="tpu", topology_name=topology)
  return list(found.devices)


def parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--topology", help="such as v3:4x4; compiles only")
  parser.add_argument("--mesh", default="-1,1,1", help="data,expert,model")
  parser.add_argument("--fsdp", action="store_true")
  parser.add_argument("--experts", default="8,32", help="E, several by commas")
  parser.add_argument("--selected", type=int, default=2, help="K")
  parser.add_argument("--embed_dim", type=int, default=256, help="D")
  parser.add_argument("--mlp_dim", type=int, default=1024, help="F")
  parser.add_argument("--rows", type=int, default=8, help="on each device")
  parser.add_argument("--length", type=int, default=64)
  parser.add_argument(
    "--groups", type=int, default=4, help="of rows of one task, on each device"
  )
  parser.add_argument("--capacity_factor", type=float, default=1.25)
  parser.add_argument("--group_size", type=int, default=1024)
  parser.add_argument("--dtype", default="float32")
  parser.add_argument(
    "--decode", action="store_true", help="one token a row, forward only"
  )
  parser.add_argument("--repeats", type=int, default=30)
  parser.add_argument("--engines", help="such as dropless,auto; all by default")
  parser.add_argument(
    "--usual_malloc",
    action="store_true",
    help="do not keep freed memory, as training on a CPU does",
  )
  parser.add_argument("--json", type=Path, help="where to write the rows")
  return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
  flags = parse(arguments)
  if not flags.usual_malloc:
    keep_freed_memory()
  data, expert, model = map(int, flags.mesh.split(","))
  mesh = make_mesh(
    MeshShape(data=data, expert=expert, model=model), devices_of(flags.topology)
  )
  partitioning = Partitioning(mesh, flags.fsdp)
  chosen = flags.engines.split(",") if flags.engines else None
  cases = [case for case in CASES if chosen is None or case[0] in chosen]
  console, rows = rich.console.Console(), []
  for experts in map(int, flags.experts.split(",")):
    setting = Setting(
      embed_dim=flags.embed_dim,
      mlp_dim=flags.mlp_dim,
      experts=experts,
      selected=flags.selected,
      rows=flags.rows * partitioning.num_row_shards,
      length=1 if flags.decode else flags.length,
      rows_per_task_group=flags.rows // flags.groups,
      tasks=max(experts // 2, flags.groups),
      dtype=flags.dtype,
      train=not flags.decode,
      capacity_factor=flags.capacity_factor,
      group_size=flags.group_size,
      partitioning=partitioning,
    )
    found = measured(
      setting, cases, run=flags.topology is None, repeats=flags.repeats
    )
    where = flags.topology or f"{mesh.size} {mesh.devices.flat[0].platform}"
    show(
      console,
      f"{'decoding' if flags.decode else 'training'}, E {experts}, {where},"
      f" mesh {dict(mesh.shape)}",
      found,
    )
    rows += found
  if flags.json:
    flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rows


if __name__ == "__main__":
  main()

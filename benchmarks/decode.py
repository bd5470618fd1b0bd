"""Peak decoding throughput: whole mixtures, a sub-network, and a dense model.

On the devices at hand, with random weights, tokens a second by batch size:

  python benchmarks/decode.py --rows=8,32,128
  XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/decode.py

For a TPU that is not there, by compiling one decoding step and reading the
program, as `taskmoe precompile` does (needs libtpu: pip install
'taskmoe-jax[tpu]'):

  python benchmarks/decode.py --topology=v3:4x4 --mesh=1,-1,1 --rows=32,128

FLOPs, bytes of main memory, memory, what is sent and the seconds that takes are
of one device and step then. Tokens that find their pool full travel in another
round (docs/routing.md); one is counted.

All sentences have `--source` tokens and are translated for `--steps` steps, or
until the last has ended. Seconds hold everything: encoder, search, fetching
experts; cpu_seconds are of all threads, which other programs disturb less.
`--json` makes one row a model and batch size.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import decode_programs
from taskmoe_jax.decoding.translations import Hypotheses
from taskmoe_jax.hosts.memory import keep_freed_memory
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.planning.arithmetic import flops_of
from taskmoe_jax.planning.collectives import collectives_of
from taskmoe_jax.planning.hlo import Module
from taskmoe_jax.planning.memory import memory_of
from taskmoe_jax.planning.time_estimate import estimate
from taskmoe_jax.planning.topologies import Topology, slices_of
from taskmoe_jax.vocabulary import PAD_ID

MODELS = ("dense", "sub_network", "task", "token")


def measured(
  flags: argparse.Namespace, name: str, partitioning: Partitioning
) -> list[dict[str, Any]]:
  """Tokens a second of one model, by batch size."""
  setting = decode_programs.Setting.from_flags(flags, name)
  params = decode_programs.random_params(setting, partitioning)
  found = []
  for rows in map(int, flags.rows.split(",")):
    program = decode_programs.translation(
      setting, params, partitioning, rows * partitioning.num_row_shards
    )
    jax.block_until_ready(program())
    seconds, cpu_seconds, tokens = [], [], 0
    for _ in range(flags.repeats):
      begin, cpu_begin = time.perf_counter(), time.process_time()
      last = jax.block_until_ready(program())
      seconds.append(time.perf_counter() - begin)
      cpu_seconds.append(time.process_time() - cpu_begin)
      tokens = _number_of_tokens(last, flags.steps)
    found.append(
      {
        "model": name,
        "rows": rows,
        "seconds": min(seconds),
        "cpu_seconds": min(cpu_seconds),
        "tokens_per_second": tokens / min(seconds),
      }
    )
  return found


def _number_of_tokens(found: Hypotheses, steps: int) -> int:
  """Of the best hypotheses; random weights may well write padding."""
  ended = np.sum(np.asarray(found.tokens)[:, 0] != PAD_ID, axis=1)
  return int(np.sum(np.where(np.asarray(found.finished)[:, 0], ended, steps)))


def compiled(
  flags: argparse.Namespace, name: str, partitioning: Partitioning
) -> list[dict[str, Any]]:
  """What the compiler says of one step of one model, by batch size."""
  setting = decode_programs.Setting.from_flags(flags, name)
  topology, mesh = Topology(flags.topology), partitioning.mesh
  found = []
  for rows in map(int, flags.rows.split(",")):
    num_rows = rows * partitioning.num_row_shards
    program = decode_programs.compiled_step(setting, partitioning, num_rows)
    module = Module(program.as_text())
    sent = collectives_of(module, mesh, slices_of(mesh))
    estimated = estimate(module, mesh, topology)
    seconds = estimated and estimated.total
    found.append(
      {
        "model": name,
        "rows": rows,
        "flops": flops_of(module),
        "bytes": program.cost_analysis()["bytes accessed"],
        "memory": memory_of(program).total,
        "collectives": sum(one.count for one in sent),
        "communication": sum(one.ici_bytes + one.dcn_bytes for one in sent),
        "sending": estimated and estimated.exposed,
        "seconds": seconds,
        "tokens_per_second": seconds and num_rows / seconds,
      }
    )
  return found


def show(console: rich.console.Console, rows: list[dict[str, Any]]) -> None:
  names = list(rows[0])
  table = rich.table.Table(title="decoding")
  for name in names:
    table.add_column(name, justify="left" if name == "model" else "right")
  for row in rows:
    table.add_row(*("-" if row[n] is None else text(row[n]) for n in names))
  console.print(table)
  peaks = {
    model: max(r["tokens_per_second"] or 0 for r in rows if r["model"] == model)
    for model in dict.fromkeys(row["model"] for row in rows)
  }
  for model, peak in peaks.items():
    of_token = peaks.get("token")
    ratio = f", {peak / of_token:.2f} x token" if of_token else ""
    console.print(f"peak of {model}: {peak:.0f} tokens/s{ratio}")


def text(value: Any) -> str:
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def parse(arguments: list[str] | None) -> argparse.Namespace:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--models", default=",".join(MODELS))
  parser.add_argument("--rows", default="8,32,128", help="on each device")
  parser.add_argument("--topology", help="such as v3:4x4; compiles only")
  parser.add_argument("--mesh", default="1,-1,1", help="data,expert,model")
  parser.add_argument("--beam_size", type=int, default=1)
  parser.add_argument("--source", type=int, default=25, help="tokens")
  parser.add_argument("--steps", type=int, default=30)
  parser.add_argument("--experts", type=int, default=32, help="E")
  parser.add_argument("--layers", type=int, default=6, help="of each stack")
  parser.add_argument("--embed_dim", type=int, default=512, help="D")
  parser.add_argument("--mlp_dim", type=int, default=2048, help="F")
  parser.add_argument("--heads", type=int, default=8, help="N")
  parser.add_argument("--vocab_size", type=int, default=64000, help="V")
  parser.add_argument("--dtype", default="float32")
  parser.add_argument("--repeats", type=int, default=3)
  parser.add_argument("--json", type=Path, help="where to write the rows")
  return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
  flags = parse(arguments)
  keep_freed_memory()
  data, expert, model = map(int, flags.mesh.split(","))
  mesh = make_mesh(
    MeshShape(data=data, expert=expert, model=model),
    Topology(flags.topology).devices if flags.topology else None,
  )
  partitioning = Partitioning(mesh)
  console, rows = rich.console.Console(), []
  for name in flags.models.split(","):
    rows += (compiled if flags.topology else measured)(
      flags, name, partitioning
    )
    console.print(rows[-1])
    # Of one model at a time: a whole mixture takes 2 GB, and as much again.
    jax.clear_caches()
  show(console, rows)
  if flags.json:
    flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rows


if __name__ == "__main__":
  main()

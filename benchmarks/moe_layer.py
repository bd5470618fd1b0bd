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
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import rich.console
import rich.table
from flax import linen as nn
from jax.experimental import topologies

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import measure
from taskmoe_jax import axes
from taskmoe_jax.layers.feed_forward import Activation, FeedForward
from taskmoe_jax.moe.config import MoeConfig
from taskmoe_jax.moe.layer import MoeFeedForward
from taskmoe_jax.moe.routing import RouterInputs
from taskmoe_jax.partitioning.meshes import MeshShape, make_mesh
from taskmoe_jax.partitioning.rules import Partitioning, activate

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


@dataclasses.dataclass(frozen=True)
class Setting:
  """Sizes of the layer and its rows; see the flags."""

  embed_dim: int
  mlp_dim: int
  experts: int
  selected: int
  rows: int  # of all devices together
  length: int
  rows_per_task_group: int
  tasks: int
  dtype: str
  train: bool
  partitioning: Partitioning

  def moe(self, engine: str, granularity: str) -> MoeFeedForward:
    config = MoeConfig(
      granularity=granularity,
      num_experts=self.experts,
      num_selected=self.selected,
      expert_mlp_dim=self.mlp_dim,
      dispatch=engine,
      capacity_factor=1.25,
      group_size=1024,
      balance_loss_weight=0.01,
      z_loss_weight=0.001,
      pool_factor=1.25,
    )
    return MoeFeedForward(config, self.tasks, Activation.RELU)

  def dense(self) -> FeedForward:
    return FeedForward(
      self.mlp_dim * self.selected, Activation.RELU, 0.0, jnp.dtype(self.dtype)
    )


def program(setting: Setting, engine: str, granularity: str) -> tuple:
  """A layer as a function, and the shapes of its operands, laid on the mesh."""
  parts = setting.partitioning
  layer = (
    setting.dense() if engine == "dense" else setting.moe(engine, granularity)
  )
  shape = (setting.rows, setting.length, setting.embed_dim)
  on_rows = parts.sharding(axes.ACT_BATCH)
  rows = functools.partial(jax.ShapeDtypeStruct, sharding=on_rows)
  operands = {
    "x": rows(shape, jnp.dtype(setting.dtype)),
    "covector": rows(shape, jnp.dtype(setting.dtype)),
    "task_ids": rows(shape[:1], jnp.int32),
    "segment_ids": rows(shape[:2], jnp.int32),
    "task_vectors": rows((shape[0], shape[2]), jnp.float32),
  }

  def apply(params, operands):
    if engine == "dense":
      y = layer.apply({"params": params}, operands["x"], train=setting.train)
      return y, 0.0
    inputs = RouterInputs(
      task_ids=operands["task_ids"],
      segment_ids=operands["segment_ids"],
      task_vectors=operands["task_vectors"],
      rows_per_task_group=setting.rows_per_task_group,
    )
    y, found = layer.apply(
      {"params": params},
      operands["x"],
      inputs,
      train=setting.train,
      rngs={"dropout": jax.random.key(0)},
    )
    return y, 0.01 * found.balance_loss + 0.001 * found.z_loss

  def loss(params, x, operands):
    y, routing_loss = apply(params, {**operands, "x": x})
    return jnp.vdot(operands["covector"], y) + routing_loss, y

  # With the output, which the next layer of a model reads.
  def train(params, operands):
    gradient = jax.grad(loss, argnums=(0, 1), has_aux=True)
    return gradient(params, operands["x"], operands)

  def decode(params, operands):
    return apply(params, operands)[0]

  def initialise(key):
    some = {
      name: jnp.zeros((1, *op.shape[1:]), op.dtype)
      for name, op in operands.items()
    }
    if engine == "dense":
      return layer.init(key, some["x"], train=False)["params"]
    inputs = RouterInputs(
      some["task_ids"], some["segment_ids"], some["task_vectors"]
    )
    return layer.init(key, some["x"], inputs, train=False)["params"]

  boxed = jax.eval_shape(initialise, jax.random.key(0))
  params = jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(
      leaf.value.shape,
      leaf.value.dtype,
      sharding=parts.sharding(*leaf.names),
    ),
    boxed,
    is_leaf=lambda leaf: isinstance(leaf, nn.Partitioned),
  )
  return train if setting.train else decode, (params, operands)


def compiled(setting: Setting, engine: str, granularity: str) -> Any:
  function, shapes = program(setting, engine, granularity)
  with activate(setting.partitioning):
    return jax.jit(function).lower(*shapes).compile(), shapes


def runner(setting: Setting, build: Any, shapes: Any) -> Callable[[], object]:
  """Draws operands of these shapes, and calls the program with them."""
  rng = np.random.default_rng(0)
  params, operands = shapes

  def draw(leaf, scale=1.0):
    values = scale * rng.normal(size=leaf.shape)
    return jax.device_put(jnp.asarray(values, leaf.dtype), leaf.sharding)

  params = jax.tree.map(lambda leaf: draw(leaf, leaf.shape[-2] ** -0.5), params)
  groups = setting.rows // setting.rows_per_task_group
  of_groups = rng.permutation(setting.tasks)[np.arange(groups) % setting.tasks]
  tasks = np.repeat(of_groups, setting.rows_per_task_group).astype(np.int32)
  vectors = rng.normal(size=(setting.tasks, setting.embed_dim))
  given = {
    "task_ids": tasks,
    "segment_ids": np.ones((setting.rows, setting.length), np.int32),
    "task_vectors": vectors[tasks].astype(np.float32),
  }
  values = {
    name: jax.device_put(given[name], leaf.sharding)
    if name in given
    else draw(leaf)
    for name, leaf in operands.items()
  }
  return lambda: build(params, values)


def measured(
  setting: Setting, cases: list[tuple[str, str]], *, run: bool, repeats: int
) -> list[dict[str, Any]]:
  """One row for each engine, the dense layer first."""
  builds = {
    case: compiled(setting, *case) for case in [("dense", "none"), *cases]
  }
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
  base = costs["dense", "none"], seconds["dense", "none"]

  def ratio(value, of):
    return value / of if value and of else None

  rows = []
  for case, cost in costs.items():
    fastest = ratio(spread.get(case), spread.get(("dense", "none")))
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
  parser.add_argument("--dtype", default="float32")
  parser.add_argument(
    "--decode", action="store_true", help="one token a row, forward only"
  )
  parser.add_argument("--repeats", type=int, default=30)
  parser.add_argument("--engines", help="such as dropless,auto; all by default")
  parser.add_argument("--json", type=Path, help="where to write the rows")
  return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
  flags = parse(arguments)
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

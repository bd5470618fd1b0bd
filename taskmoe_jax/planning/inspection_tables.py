"""Prints an `Inspection` as tables and lines."""

from collections.abc import Callable, Sequence

import rich.console
import rich.table
from rich.filesize import decimal

from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.planning.inspection import Inspection, ShardedArray
from taskmoe_jax.train.loop import BatchShape


def print_inspection(
  console: rich.console.Console,
  found: Inspection,
  partitioning: Partitioning,
  batches: BatchShape,
) -> None:
  """Prints mesh, parameters, memory of one device, FLOPs."""
  say = _line_printer(console)
  sizes = " × ".join(
    f"{name} {size}" for name, size in partitioning.mesh.shape.items()
  )
  say(
    f"mesh: {sizes} = {partitioning.mesh.size} devices, fsdp"
    f" {'on' if partitioning.fsdp else 'off'}"
  )
  say(
    f"batch: {batches.batch_size} rows,"
    f" {batches.batch_size // partitioning.num_row_shards} on each of"
    f" {partitioning.num_row_shards} shares of rows; {batches.source_length}"
    f" source and {batches.target_length} target tokens a row"
  )
  for stack, choice in found.dispatch.items():
    say(f"{stack} experts by {choice}")
  say("parameters: axis, size, and /mesh axes where it is split over them")
  console.print(_parameter_table(found))
  _print_memory(say, found)
  _print_flops(say, found, partitioning.mesh.size)


def _parameter_table(found: Inspection) -> rich.table.Table:
  table = rich.table.Table()
  table.add_column("parameter", no_wrap=True)
  table.add_column("axes", overflow="fold")
  for name in ("parameter a device", "optimizer a device"):
    table.add_column(name, justify="right")
  states = _states_by_parameter(found.parameters, found.optimizer_state)
  for array in found.parameters:
    table.add_row(
      array.path,
      _axes(array),
      decimal(array.device_bytes),
      decimal(states[array.path]),
    )
  return table


def _states_by_parameter(
  parameters: Sequence[ShardedArray], states: Sequence[ShardedArray]
) -> dict[str, int]:
  """Bytes on one device of the optimizer's arrays, by parameter."""
  by_path = {array.path: 0 for array in parameters}
  for state in states:
    # Paths of the state contain the whole path of the parameter.
    for path in by_path:
      if f"/{path}/" in f"/{state.path}/":
        by_path[path] += state.device_bytes
        break
  return by_path


def _axes(array: ShardedArray) -> str:
  parts = []
  for name, size, split in zip(
    array.logical_axes, array.shape, array.split, strict=True
  ):
    over = f"/{'·'.join(split)}" if split else ""
    parts.append(f"{name or '-'} {size}{over}")
  return ", ".join(parts)


def _print_memory(say: Callable[[str], None], found: Inspection) -> None:
  count = sum(array.size for array in found.parameters)
  rows = {
    "parameters": (
      sum(array.total_bytes for array in found.parameters),
      sum(array.device_bytes for array in found.parameters),
    ),
    "optimizer state": (
      sum(array.total_bytes for array in found.optimizer_state),
      sum(array.device_bytes for array in found.optimizer_state),
    ),
  }
  say(f"{count / 1e6:.2f}M parameters")
  for name, (total, device) in rows.items():
    say(f"  {name:16} {decimal(device):>10} a device, {decimal(total)} in all")
  say(f"  {'gradients':16} {decimal(found.gradient_bytes):>10} a device")
  say(
    f"  {'activations':16} {decimal(found.activation_bytes):>10} a device, an"
    " estimate: what JAX keeps for the backward pass"
  )
  say(f"  {'together':16} {decimal(found.device_bytes):>10} a device")


def _print_flops(
  say: Callable[[str], None], found: Inspection, devices: int
) -> None:
  tokens = found.source_tokens + found.target_tokens
  ratio = found.hardware_flops / found.model_flops
  say(
    f"model FLOPs: {found.model_flops / tokens:.4g} a token in training,"
    f" {found.model_flops / found.target_tokens:.4g} a target token with its"
    f" source, {found.model_flops:.4g} a step"
  )
  say(
    f"hardware FLOPs: {found.hardware_flops:.4g} a step, {ratio:.3f} times the"
    f" model's; {found.hardware_flops / devices:.4g} a device"
  )


def _line_printer(console: rich.console.Console) -> Callable[[str], None]:
  def say(text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)

  return say

"""`taskmoe inspect`: what a training run will need, before anything is trained.

Prints the mesh, every parameter with its sharding and bytes per device, the
optimizer's state, an estimate of activations, FLOPs, and which experts serve
which task. Needs no accelerator: the devices are simulated, nothing is compiled
and no parameter is allocated.
"""

import argparse
from typing import Any

from taskmoe_jax.cli import flags
from taskmoe_jax.config.build import arguments
from taskmoe_jax.errors import TaskMoeError

# Arguments of `loop.train` that do not shape a program.
_NOT_READ = ("vocabulary", "checkpoints", "run_dir", "config_text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--devices", type=int, default=1, help="number of devices to simulate; 1"
  )
  parser.add_argument(
    "--pairs",
    type=lambda text: tuple(text.split(",")),
    help="such as de-en,en-de, in place of the mixture, whose text is then not"
    " needed",
  )
  parser.add_argument(
    "--run_dir", help="a run, whose recipe and newest checkpoint are read"
  )
  parser.add_argument("--step", type=int, help="another of its checkpoints")
  flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> None:
  if not args.run_dir and not args.gin_file:
    raise TaskMoeError(
      "nothing to inspect: set --gin_file to a recipe, or --run_dir to a run."
    )
  kept = [flags.run_config(args.run_dir)] if args.run_dir else []
  flags.load(args, files=kept)
  from taskmoe_jax.train import loop

  supplied = [*_NOT_READ, *(["mixture"] if args.pairs else [])]
  settings = arguments(loop.train, supplied)
  _show(args, settings)


def _show(args: argparse.Namespace, settings: dict[str, Any]) -> None:
  import rich.console

  from taskmoe_jax.data.corpus import task_space_of
  from taskmoe_jax.data.opening import open_corpus
  from taskmoe_jax.export import serving_experts
  from taskmoe_jax.partitioning.meshes import make_mesh, simulated_devices
  from taskmoe_jax.partitioning.rules import Partitioning
  from taskmoe_jax.planning.inspection import inspect, program_of
  from taskmoe_jax.planning.inspection_tables import print_inspection
  from taskmoe_jax.task_space import TaskSpace

  if args.pairs:
    space = TaskSpace.from_pairs(args.pairs, settings["task_by"])
  else:
    corpus = open_corpus(settings["mixture"])
    space = task_space_of(corpus, settings["task_by"])
  mesh = make_mesh(settings["mesh"], simulated_devices(args.devices))
  partitioning = Partitioning(mesh, settings["fsdp"])
  batches, model = settings["batches"], settings["model"]
  program = program_of(settings, partitioning, space)
  console = rich.console.Console()
  if not console.is_terminal:
    # Wide enough for the longest path, in a file or a pipe.
    console.width = 180
  print_inspection(console, inspect(program, batches), partitioning, batches)
  experts = serving_experts.experts_of_config(model, space)
  if args.run_dir:
    experts, step = serving_experts.experts_of_checkpoint(
      args.run_dir, model, space, args.step
    )
    console.print(f"experts as in checkpoint {step}:", highlight=False)
  serving_experts.print_experts(console, model, experts)

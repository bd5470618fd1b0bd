"""`taskmoe precompile`: compiles a recipe for a TPU pod, without having one.

Reports whether it fits, what it computes, what it sends over which network, and
how long a step would take. Needs libtpu, which comes with
pip install 'taskmoe-jax[tpu]', but no TPU.

  taskmoe precompile --gin_file=recipes/wmt_task_moe_32e.gin --pairs=30 \\
    --topology=v5p:4x4x4
  taskmoe precompile ... --compare='--gin.ENCODER=task' --compare=other.gin
  taskmoe precompile ... --search=4
"""

import argparse
import dataclasses
import json
import shlex
from collections.abc import Callable, Iterable
from typing import Any

import rich.console
from etils import epath

from taskmoe_jax.cli import flags
from taskmoe_jax.config.build import arguments
from taskmoe_jax.errors import TaskMoeError, as_member, check_at_least
from taskmoe_jax.files import write_whole
from taskmoe_jax.task_space import TaskSpace


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--topology", required=True, help="such as v3:4x4, v5e:4x8 or v5p:4x4x4"
  )
  parser.add_argument(
    "--slices",
    type=int,
    default=1,
    help="number of such slices, joined by the data-center network",
  )
  parser.add_argument(
    "--steps",
    type=lambda text: text.split(","),
    default=["train"],
    help="any of train, evaluate, decode, export; train unless given",
  )
  parser.add_argument(
    "--pairs",
    help="number of pairs, or their names: 30, or de-en,en-de. The recipe's"
    " text is then not needed",
  )
  parser.add_argument(
    "--compare",
    action="append",
    default=[],
    metavar="FLAGS",
    help="another recipe, or other settings of this one, to compare with: gin"
    " files and --gin.NAME=VALUE in one string; may be repeated",
  )
  parser.add_argument(
    "--search",
    type=int,
    nargs="?",
    const=6,
    help="try the meshes, microbatches and rematerialization that make sense;"
    " number of programs to compile, 6 unless given",
  )
  parser.add_argument("--json", help="file to write the report to")
  parser.add_argument(
    "--store", help="folder for the compiled program, to run on a pod"
  )
  parser.add_argument(
    "--cache_dir", help="folder of JAX's compilation cache, to fill"
  )
  flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> None:
  args.pairs = pairs_of(args.pairs) if args.pairs else ()
  if args.search is not None and args.compare:
    raise TaskMoeError(
      "--search looks for the best mesh of one recipe, --compare compares"
      " several recipes: give one of them."
    )
  from taskmoe_jax.planning.compilation import cache_in
  from taskmoe_jax.planning.pod_report import print_comparison, print_report

  console = rich.console.Console()
  with cache_in(args.cache_dir):
    if args.search is not None:
      found = _search(args, console)
      reports = [report for _, report in found]
      print_comparison(console, reports)
      console.print(
        f"the first, with {found[0][0].flags}"
        if reports[0].fits
        else "none of these fits",
        highlight=False,
        soft_wrap=True,
      )
    else:
      reports = _compile_all(args, console)
      for report in reports:
        print_report(console, report)
      if len(reports) > 1:
        print_comparison(console, reports)
  if args.json:
    _write_json(args.json, reports)


def _compile_all(args: argparse.Namespace, console) -> list:
  from taskmoe_jax.partitioning.meshes import make_mesh
  from taskmoe_jax.partitioning.rules import Partitioning
  from taskmoe_jax.planning.programs import Step
  from taskmoe_jax.planning.topologies import Topology

  topology = Topology(args.topology, args.slices)
  steps = [as_member(Step, "step", name, "--steps") for name in args.steps]
  reports = []
  for label, files, overrides in _recipes(args):
    settings, build = settings_of(files, overrides, args)
    mesh = make_mesh(settings["mesh"], topology.devices)
    plan = build(settings, Partitioning(mesh, settings["fsdp"]))
    for step in steps:
      name = f"{label}, {step}, {_where(args)}"
      reports.append(_compile(plan, step, topology, name, console, args.store))
  return reports


def _search(args: argparse.Namespace, console) -> list[tuple]:
  from taskmoe_jax.planning import search
  from taskmoe_jax.planning.programs import Step
  from taskmoe_jax.planning.topologies import Topology

  topology = Topology(args.topology, args.slices)
  ((_, files, overrides),) = _recipes(args)
  settings, build = settings_of(files, overrides, args)

  def compiled(plan, name):
    return _compile(plan, Step.TRAIN, topology, name, console, args.store)

  return search.search(
    settings, topology, limit=args.search, build=build, compiled=compiled
  )


def _compile(plan, step, topology, name, console, store_in):
  from taskmoe_jax.planning.compilation import compile_step, store

  with console.status(f"compiling {name} (minutes for a large model)"):
    report, compiled = compile_step(plan, step, topology, name=name)
  if store_in and compiled is not None:
    file_name = "".join(c if c.isalnum() else "-" for c in name)
    path = store(compiled, store_in, file_name)
    console.print(f"stored {path}", highlight=False, soft_wrap=True)
  return report


def _where(args: argparse.Namespace) -> str:
  times = f"{args.slices} x " if args.slices > 1 else ""
  return f"{times}{args.topology}"


def _recipes(args: argparse.Namespace) -> list[tuple[str, list, list]]:
  """A label, gin files and overrides of each recipe to compile."""
  first = args.gin_file, list(args.gin_overrides)
  found = [(_label(*first), *first)]
  for text in args.compare:
    words = shlex.split(text)
    flags = [word for word in words if word.startswith("--gin.")]
    files = [word for word in words if not word.startswith("-")]
    if len(flags) + len(files) < len(words):
      raise TaskMoeError(
        f"--compare={text!r}: it may hold gin files and --gin.NAME=VALUE only."
      )
    of_first = [*first[1]] if not files else []
    found.append(
      (
        _label(files or first[0], flags),
        files or first[0],
        [*of_first, *flags],
      )
    )
  return found


def _label(files: Iterable[str], overrides: Iterable[str]) -> str:
  names = [epath.Path(name).stem for name in files]
  flags = [flag.removeprefix("--gin.") for flag in overrides]
  return " ".join([*names, *flags])


def settings_of(
  files: list[str], overrides: list[str], args: argparse.Namespace
) -> tuple[dict[str, Any], Callable]:
  """Arguments of `train`, and a function that makes a plan of them on a mesh.

  Text is not read if pairs are given.
  """
  flags.load(argparse.Namespace(gin_file=files, gin_overrides=overrides))
  from taskmoe_jax.data.corpus import task_space_of
  from taskmoe_jax.data.opening import open_corpus
  from taskmoe_jax.planning.inspection import program_of
  from taskmoe_jax.planning.programs import Plan
  from taskmoe_jax.train import loop

  supplied = ["config_text", "run_dir", "vocabulary"]
  if args.pairs:
    supplied.append("mixture")
  try:
    settings = arguments(loop.train, supplied)
  except TaskMoeError as error:
    if args.pairs:
      raise
    raise TaskMoeError(
      f"{error} (Without text, plan for a number of pairs: --pairs=30.)"
    ) from None
  if args.slices > 1:
    settings["mesh"] = dataclasses.replace(settings["mesh"], slices=args.slices)
  if args.pairs:
    space = TaskSpace.from_pairs(args.pairs, settings["task_by"])
  else:
    corpus = open_corpus(settings["mixture"])
    space = task_space_of(corpus, settings["task_by"])

  def build(settings, partitioning):
    program = program_of(settings, partitioning, space)
    return Plan(program, settings["batches"])

  return settings, build


def pairs_of(text: str) -> tuple[str, ...]:
  """Pairs by name, or by number: English with placeholder languages."""
  if not text.isdigit():
    return tuple(text.split(","))
  number = int(text)
  check_at_least(1, "--pairs", pairs=number)
  names = [f"x{number}" for number in range(-(-number // 2))]
  both = [pair for name in names for pair in (f"en-{name}", f"{name}-en")]
  return tuple(both[:number])


def _write_json(path: str, reports: list) -> None:
  """Writes one report as it is, several by their names."""
  found: Any = {report.name: report.to_dict() for report in reports}
  if len(reports) == 1:
    (found,) = found.values()
  try:
    write_whole(epath.Path(path), json.dumps(found, indent=2).encode())
  except OSError as error:
    raise TaskMoeError(
      f"cannot write {path!r} ({error.strerror}). Set --json to a file that can"
      " be written."
    ) from None

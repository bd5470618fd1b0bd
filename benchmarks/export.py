"""What extraction costs, and how exact it is at the paper's size.

  python benchmarks/export.py memory       peak memory of an export, by --check
  python benchmarks/export.py exactness    logits and translations at base size

`memory`: a stand-in for the 13B recipe with its ratio, 128 experts, encoder by
token and decoder by task, is exported by `taskmoe export` in fresh processes.
What is printed is the most memory that each ever had (RSS), and that of one
that stops before it reads anything.

`exactness`: the model of wmt_task_moe_32e as training begins, 532M parameters.
Each of a few tasks is extracted, and compared with the mixture: logits relative
to the largest of all logits compared, and translations with four beams.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import orbax.checkpoint as ocp
import rich.console
import rich.table
from jaxtyping import PyTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from benchmarks.export_models import initial_params, model_of, random_params
from taskmoe_jax.decoding.search import Beam, Lengths
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export.extract import extract
from taskmoe_jax.export.verify import logits_of_references
from taskmoe_jax.models.parameters import parameter_count
from taskmoe_jax.runs.checkpoint_items import saved_items
from taskmoe_jax.runs.directory import (
  Run,
  load_run,
  load_samples,
  open_run_directory,
)
from taskmoe_jax.task_space import TaskSpace

# Exports, and says with which code, the most memory (KiB) and the CPU seconds.
# What `wait` says of a child's memory counts that of its parent before it.
_PROGRAM = """
import re, sys, time
from taskmoe_jax.cli.main import main
code = main(sys.argv[1:])
status = open("/proc/self/status").read()
peak = re.search(r"VmHWM:\\s*(\\d+)", status)[1]
print(code, peak, round(time.process_time(), 1))
"""
# Sentences of each pair that are compared.
_SENTENCES = 4
_LONGEST = 24


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("what", choices=("memory", "exactness"))
  parser.add_argument(
    "--run_dir", required=True, help="a run whose vocabulary and text to take"
  )
  parser.add_argument("--tasks", default="de,en,fr,zh", help="of exactness")
  parser.add_argument("--embed_dim", type=int, default=128, help="of memory")
  parser.add_argument("--out", help="where to write JSON")
  args = parser.parse_args()
  measure = memory if args.what == "memory" else exactness
  rows = measure(args)
  table = rich.table.Table(title=args.what)
  for name in rows[0]:
    table.add_column(name, justify="right")
  for row in rows:
    table.add_row(*map(str, row.values()))
  rich.console.Console(width=120).print(table)
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(rows, indent=2))


def write_run(folder: pathlib.Path, run: Run, params: PyTree, samples) -> None:
  """A run directory with one checkpoint, of step 0."""
  open_run_directory(folder, run, "", samples)
  names = ("params", "contents")
  with ocp.Checkpointer(ocp.CompositeCheckpointHandler(*names)) as writer:
    place = folder.resolve() / "checkpoints" / "0"
    writer.save(place, args=saved_items({"params": params}, {}))


def memory(args: argparse.Namespace) -> list[dict]:
  """Peak memory of exports in processes of their own."""
  given = load_run(args.run_dir)
  width = args.embed_dim
  model = model_of(
    embed_dim=width,
    num_heads=width // 32,
    mlp_dim=8 * width,
    vocab_size=len(given.vocabulary),
    num_experts=128,
    encoder="token",
    decoder="task",
  )
  run = dataclasses.replace(given, model=model)
  with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder) / "run"
    params = random_params(model, run.task_space)
    sizes = {
      name: sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) / 2**20
      for name, tree in params.items()
    }
    write_run(place, run, params, load_samples(args.run_dir))
    del params
    rows = [_exported(place, "nothing", "--tasks=nobody")]
    print(json.dumps(rows[-1]), flush=True)
    for tasks, check in (
      ("de", "slices"),
      ("all", "slices"),
      ("de", "mixture"),
    ):
      flags = f"--tasks={tasks}", f"--check={check}"
      rows.append(_exported(place, check, *flags))
      print(json.dumps(rows[-1]), flush=True)
  mixture = sum(sizes.values())
  print(
    f"mixture {mixture:.0f} MiB, of which {sizes['encoder']:.0f} of the encoder"
    f" (kept) and {sizes['decoder']:.0f} of the decoder (reduced)"
  )
  return rows


def _exported(place: pathlib.Path, check: str, *flags: str) -> dict:
  """Runs one export, and says what it took."""
  out = place.parent / f"out-{check}-{len(flags[0])}"
  begin = time.perf_counter()
  process = subprocess.run(
    [
      *(sys.executable, "-c", _PROGRAM, "export"),
      *(f"--run_dir={place}", f"--out={out}", *flags),
    ],
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env={**os.environ, "JAX_PLATFORMS": "cpu"},
    text=True,
    check=True,
  )
  code, peak, seconds = process.stdout.split()[-3:]
  return {
    "tasks": flags[0].removeprefix("--tasks="),
    "check": check,
    "exit code": int(code),
    "peak MiB": int(peak) // 1024,
    "CPU s": float(seconds),
    "wall s": round(time.perf_counter() - begin, 1),
  }


def exactness(args: argparse.Namespace) -> list[dict]:
  """Sub-networks of the paper's base model, compared with it."""
  given = load_run(args.run_dir)
  space, samples = given.task_space, load_samples(args.run_dir)
  model = model_of(
    embed_dim=512,
    num_heads=8,
    mlp_dim=2048,
    vocab_size=64000,
    num_experts=32,
    encoder="task",
    decoder="task",
  )
  mixture = Translator(
    model, initial_params(model, space), space, given.vocabulary
  )
  rows = []
  for task in args.tasks.split(","):
    pair = space.pairs_of_task(task)[0]
    sentences = samples[pair][:_SENTENCES]
    extracted, config, _ = extract(
      mixture.params, model, (space.task_id(task),), len(space.tasks)
    )
    served = TaskSpace.from_pairs((pair,), space.task_by)
    small = Translator(config, extracted, served, given.vocabulary)
    rows.append(_compared(task, mixture, small, pair, sentences))
    print(json.dumps(rows[-1]), flush=True)
  return rows


def _compared(task, mixture, small, pair, sentences) -> dict:
  begin = time.perf_counter()
  with jax.default_matmul_precision("highest"):
    ours, theirs = (
      logits_of_references(model, pair, sentences) for model in (mixture, small)
    )
    search, lengths = (
      Beam(size=4, length_penalty=0.6),
      Lengths(max_target=_LONGEST),
    )
    found = [
      model.decode(
        [source for source, _ in sentences],
        pair,
        search=search,
        lengths=lengths,
        batch_size=_SENTENCES,
      ).texts
      for model in (mixture, small)
    ]
  difference = np.abs(ours - theirs).max()
  sizes = [parameter_count(model.params) / 1e6 for model in (mixture, small)]
  return {
    "task": task,
    "parameters": f"{sizes[0]:.1f}M",
    "kept": f"{sizes[1]:.1f}M",
    "largest logit": f"{np.abs(ours).max():.2f}",
    "max difference": f"{difference:.1e}",
    "relative": f"{difference / np.abs(ours).max():.1e}",
    "identical": f"{sum(map(str.__eq__, *found))}/{len(sentences)}",
    "seconds": f"{time.perf_counter() - begin:.0f}",
  }


if __name__ == "__main__":
  main()

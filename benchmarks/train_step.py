r"""A whole training step: against t5x's, and a task-MoE's against a dense one.

  python benchmarks/train_step.py --models=dense,tied,t5x \
    --t5x_python=VENV/bin/python
  python benchmarks/train_step.py --models=wide,task_8,task_32 \
    --rows=64 --length=128

Each model is a process of its own, so that start-up can be measured: seconds to
the end of the first step, imports, initial state and compiling included. Then
they take `--steps` in turn, so that what else the machine does falls on all
alike. CPU seconds are of all threads. All have Adafactor, dropout, z-loss,
float32, and the same rows of random tokens; no text is read.

t5x's T5 1.1 has one table of pieces for both stacks and another for the
softmax; `dense` has three, `tied` one, and all else is the same, dropout that
is shared by a row's positions too. t5x is not on PyPI: `--t5x_python` is of an
environment in which it can be imported, with the same JAX.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.table

ROOT = Path(__file__).resolve().parent.parent
# Where a child writes; JAX and its friends print to the usual places.
_PIPE = "TASKMOE_BENCHMARK_PIPE"


def child(flags: argparse.Namespace) -> None:
  """Takes a step for each line that it reads, and writes what it took."""
  sys.path.insert(0, str(ROOT))
  from benchmarks.step_programs import step_of

  with os.fdopen(int(os.environ[_PIPE]), "w") as out:
    step = None
    for _ in sys.stdin:
      begin, cpu = time.perf_counter(), _cpu()
      if step is None:
        # The first step's time is all of this process's.
        begin, cpu = begin - flags.since_start(), 0.0
        step = step_of(flags, flags.child)
      loss = step()
      took = {"wall": time.perf_counter() - begin, "cpu": _cpu() - cpu}
      print(json.dumps({**took, "loss": loss}), file=out, flush=True)


def _cpu() -> float:
  usage = resource.getrusage(resource.RUSAGE_SELF)
  return usage.ru_utime + usage.ru_stime


class Model:
  """One model in its process."""

  def __init__(self, flags: argparse.Namespace, name: str):
    python = sys.executable
    if name == "t5x":
      python = flags.t5x_python or sys.exit("Set --t5x_python for t5x.")
    read, write = os.pipe()
    self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
    self._process = subprocess.Popen(
      [python, __file__, f"--child={name}", f"--started={time.time()}"]
      + [f"--{size}={getattr(flags, size)}" for size in (*_SIZES, "dropout")],
      stdin=subprocess.PIPE,
      stdout=subprocess.DEVNULL,
      stderr=self._errors,
      pass_fds=(write,),
      env={**os.environ, _PIPE: str(write), "JAX_PLATFORMS": "cpu"},
      text=True,
    )
    os.close(write)
    self._answers = os.fdopen(read)

  def step(self) -> dict[str, float]:
    print("step", file=self._process.stdin, flush=True)
    answer = self._answers.readline()
    if not answer:
      status = self._process.wait()
      self._errors.seek(0)
      sys.exit(f"{self._errors.read()[-4000:]}\nended with {status}")
    return json.loads(answer)

  def close(self) -> None:
    self._process.stdin.close()
    self._process.wait()


def race(flags: argparse.Namespace) -> list[dict[str, Any]]:
  """What each model took to start, and for a step."""
  names = flags.models.split(",")
  models, first = {}, {}
  # One after the other: two that compile at once would slow each other down.
  for name in names:
    models[name] = Model(flags, name)
    first[name] = models[name].step()
  taken: dict[str, list[dict[str, float]]] = {name: [] for name in names}
  for _ in range(flags.steps):
    for name in names:
      taken[name].append(models[name].step())
  for model in models.values():
    model.close()
  return [
    {
      "model": name,
      "start_wall": first[name]["wall"],
      "start_cpu": first[name]["cpu"],
      "wall": float(np.median([took["wall"] for took in taken[name]])),
      "cpu": float(np.median([took["cpu"] for took in taken[name]])),
      "least_cpu": min(took["cpu"] for took in taken[name]),
      "loss": taken[name][-1]["loss"],
    }
    for name in names
  ]


def show(console: rich.console.Console, rows: list[dict[str, Any]]) -> None:
  table = rich.table.Table(title=f"seconds; ratios to {rows[0]['model']}")
  for name in rows[0]:
    table.add_column(name, justify="left" if name == "model" else "right")
  for row in rows:
    cells = [row["model"]]
    for name in list(row)[1:]:
      ratio = row[name] / rows[0][name]
      cells.append(f"{row[name]:.3f}" + f" ({ratio:.2f}x)" * (name != "loss"))
    table.add_row(*cells)
  console.print(table)


_SIZES = ("rows", "length", "embed_dim", "mlp_dim", "heads", "layers")


def parse(
  arguments: list[str] | None, description: str, *, models: str
) -> argparse.Namespace:
  """Flags of this program, and of `save`."""
  parser = argparse.ArgumentParser(
    description=description,
    formatter_class=argparse.RawDescriptionHelpFormatter,
  )
  parser.add_argument("--models", default=models)
  parser.add_argument("--t5x_python", help="an interpreter that has t5x")
  parser.add_argument("--steps", type=int, default=10)
  for size, default in zip(_SIZES, (16, 64, 256, 1024, 4, 4), strict=True):
    parser.add_argument(f"--{size}", type=int, default=default)
  parser.add_argument("--dropout", type=float, default=0.1)
  parser.add_argument("--json", help="where to write the rows")
  parser.add_argument("--child", help=argparse.SUPPRESS)
  parser.add_argument("--started", type=float, help=argparse.SUPPRESS)
  return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
  flags = parse(arguments, __doc__, models="dense,tied,t5x")
  if flags.child:
    flags.since_start = lambda: time.time() - flags.started
    child(flags)
    return
  rows = race(flags)
  show(rich.console.Console(), rows)
  if flags.json:
    Path(flags.json).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
  main()

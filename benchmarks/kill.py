"""Kills a training many times, and compares its end with an unbroken one's.

  python benchmarks/kill.py [--kills=20] [--processes=2] [--out=FILE] [--gin...]

A small recipe trains from a cache, with dropout, packing and microbatches, and
saves every few steps. It is killed by SIGKILL at random moments (of several
processes a random one is), started again each time, and after the last kill
left to finish. Then its parameters and all that it has reported of the
computation must be those of the unbroken run, bit for bit. The table says how
many kills fell inside the write of a checkpoint, and how soon the others of a
killed process stopped.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time

import jax
import numpy as np
import rich.console
import rich.table

import taskmoe_jax

_FLAGS = (
  "--gin_file=recipes/demo.gin",
  "--gin.BATCH_SIZE=16",
  "--gin.MICROBATCHES=2",
  "--gin.ROWS_PER_TASK_GROUP=2",
  "--gin.SOURCE_LENGTH=32",
  "--gin.TARGET_LENGTH=32",
  "--gin.DROPOUT_RATE=0.1",
  "--gin.VOCAB_SIZE=1000",
  "--gin.VOCAB_SENTENCES=3000",
  "--gin.NUM_EXPERTS=4",
  "--gin.LOG_EVERY=1",
  "--gin.CHECKPOINT_EVERY=2",
)
# Of several processes, on a machine that may be busy with others.
_SILENCE = 30
_COMPUTED = ("loss", "accuracy", "gradient_norm", "data/", "routing/")


@dataclasses.dataclass
class Kill:
  """One kill.

  Attributes:
    step: The last step that had been reported.
    in_write: Whether a checkpoint was half-written then.
    seconds: How long the other processes went on; None if there are none.
  """

  step: int
  in_write: bool
  seconds: float | None


class Job:
  """A training command, started as one process or as several."""

  def __init__(self, run_dir: pathlib.Path, flags: list[str], processes: int):
    self.run_dir = run_dir
    self._processes = processes
    self._command = [
      *(sys.executable, "-m", "taskmoe_jax.cli.main", "train"),
      *(*flags, f"--gin.RUN_DIR={run_dir}"),
    ]

  def start(self) -> list[subprocess.Popen]:
    with socket.socket() as free:
      free.bind(("localhost", 0))
      port = free.getsockname()[1]
    joined = (
      [f"--coordinator=localhost:{port}", f"--num_processes={self._processes}"]
      if self._processes > 1
      else ["--num_processes=1"]
    )
    started = []
    for index in range(self._processes):
      own = (
        [f"--process_id={index}", f"--silence_seconds={_SILENCE}"]
        if self._processes > 1
        else []
      )
      with open(self.run_dir.with_suffix(f".{index}.log"), "a") as log:
        started.append(
          subprocess.Popen(
            [*self._command, *joined, *own], stdout=log, stderr=log
          )
        )
    return started

  def finish(self) -> None:
    for process in self.start():
      if process.wait():
        raise self.failure()

  def failure(self) -> SystemExit:
    """What the processes said last; their logs are gone with this program."""
    logs = sorted(self.run_dir.parent.glob(f"{self.run_dir.name}.*.log"))
    said = [f"{log.name}: ...{log.read_text()[-2000:]}" for log in logs]
    return SystemExit("\n".join(["a run ended by itself", *said]))

  def last_step(self) -> int:
    reports = self.reports()
    return reports[-1]["step"] if reports else 0

  def reports(self) -> list[dict]:
    path = self.run_dir / "metrics.jsonl"
    if not path.exists():
      return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]

  def is_writing(self) -> bool:
    return any(self.run_dir.glob("checkpoints/*tmp*"))


def kill_once(job: Job, chance: random.Random) -> Kill:
  """Starts the job and kills it soon after its first report."""
  processes, first = job.start(), job.last_step()
  while job.last_step() <= first:
    if any(process.poll() is not None for process in processes):
      raise job.failure()
    time.sleep(0.02)
  time.sleep(chance.uniform(0, 1.5))
  victim = chance.choice(processes)
  in_write = job.is_writing()
  victim.send_signal(signal.SIGKILL)
  since, step = time.monotonic(), job.last_step()
  others = [process for process in processes if process is not victim]
  for process in (victim, *others):
    process.wait(timeout=120)
  seconds = time.monotonic() - since if others else None
  return Kill(step, in_write, seconds)


def differences(job: Job, other: Job) -> list[str]:
  """What is not the same in two finished runs."""

  def computed(report):
    return {
      name: value
      for name, value in report.items()
      if name == "step" or name.startswith(_COMPUTED)
    }

  found = []
  reports = [list(map(computed, one.reports())) for one in (job, other)]
  if reports[0] != reports[1]:
    found.append("reports")
  params = [taskmoe_jax.load(one.run_dir).params for one in (job, other)]
  for (path, a), b in zip(
    jax.tree_util.tree_leaves_with_path(params[0]),
    jax.tree.leaves(params[1]),
    strict=True,
  ):
    if not np.array_equal(a, b):
      found.append(jax.tree_util.keystr(path))
  return found


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--kills", type=int, default=20)
  parser.add_argument("--processes", type=int, default=1)
  parser.add_argument("--steps", type=int, default=400)
  parser.add_argument("--seed", type=int, default=0, help="of the moments")
  parser.add_argument("--out", help="where to write JSON")
  args, changes = parser.parse_known_args()
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  console = rich.console.Console()
  with tempfile.TemporaryDirectory() as scratch:
    folder = pathlib.Path(scratch)
    flags = [*_FLAGS, f"--gin.TRAIN_STEPS={args.steps}", *changes]
    cache = f"--gin.CACHE={folder / 'cache'}"
    command = [sys.executable, "-m", "taskmoe_jax.cli.main", "cache"]
    made = [*flags, cache, f"--gin.RUN_DIR={folder / 'vocabulary'}"]
    subprocess.run([*command, *made, "--gin.ENDLESS_EXAMPLES=3000"], check=True)
    flags += ["--gin_file=mixtures/cache.gin", cache]
    unbroken = Job(folder / "unbroken", flags, args.processes)
    unbroken.finish()
    killed, chance = (
      Job(folder / "killed", flags, args.processes),
      random.Random(args.seed),
    )
    kills = []
    for number in range(args.kills):
      kills.append(kill_once(killed, chance))
      console.print(f"kill {number + 1}: {kills[-1]}", highlight=False)
    killed.finish()
    found = differences(killed, unbroken)
  table = rich.table.Table("kills", "in a write", "others stopped after")
  others = [kill.seconds for kill in kills if kill.seconds is not None]
  table.add_row(
    str(len(kills)),
    str(sum(kill.in_write for kill in kills)),
    f"at most {max(others):.1f} s" if others else "-",
  )
  console.print(table)
  console.print(f"differs: {', '.join(found) or 'nothing, bit for bit'}")
  if args.out:
    rows = {"kills": list(map(dataclasses.asdict, kills)), "differs": found}
    pathlib.Path(args.out).write_text(json.dumps(rows, indent=2))
  if found:
    raise SystemExit(1)


if __name__ == "__main__":
  main()

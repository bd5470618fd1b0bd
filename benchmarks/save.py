"""What a checkpoint costs the training loop, beside a step.

  python benchmarks/save.py --embed_dim=512 --mlp_dim=2048 --rows=32

Steps and saves in turn; a save is timed from the end of a step until the next
may begin, and is then waited for, so that no save hides behind another. What
writing costs while steps go on is told by the step after it, which shares the
processor with it here; on a TPU it does not. `save` copies the state on its
device; `read` is where there is no room for that, and the loop waits until it
has been read off.
"""

import argparse
import json
import sys
import tempfile
import time
import unittest.mock
from pathlib import Path

import numpy as np
import rich.console
import rich.table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import step_programs, train_step
from taskmoe_jax.train.checkpoints import background_writer
from taskmoe_jax.train.checkpoints.checkpoint_policy import CheckpointPolicy
from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints


def timed(function, *arguments) -> tuple[float, float]:
  """Seconds by the clock, and of the calling thread's own."""
  begin, own = time.perf_counter(), time.thread_time()
  function(*arguments)
  return time.perf_counter() - begin, time.thread_time() - own


def measure(flags: argparse.Namespace) -> dict[str, float]:
  """Medians, of the saves after the first, which compiles the checksums."""
  step = step_programs.Ours(flags, flags.models)
  step()
  steps, beside, saves, reads = [], [], [], []
  policy = CheckpointPolicy(every_steps=1, keep=2)
  with (
    tempfile.TemporaryDirectory() as folder,
    Checkpoints(folder, policy) as checkpoints,
  ):
    for _ in range(flags.steps + 1):
      steps.append(timed(step))
      saves.append(timed(checkpoints.save, step.state, {"batches": 0}, {}))
      beside.append(timed(step))
      checkpoints.wait()
      with unittest.mock.patch.object(
        background_writer, "has_room", return_value=False
      ):
        reads.append(timed(checkpoints.save, step.state, {"batches": 0}, {}))
      checkpoints.wait()
  wall, own = np.median(saves[1:], axis=0)
  read, read_own = np.median(reads[1:], axis=0)
  usual = float(np.median([s[0] for s in steps[1:]]))
  return {
    "step": usual,
    "save": float(wall),
    "save_own": float(own),
    "share": float(wall) / usual,
    "read": float(read),
    "read_own": float(read_own),
    "read_share": float(read) / usual,
    "step_beside": float(np.median([s[0] for s in beside[1:]])),
  }


def main(arguments: list[str] | None = None) -> None:
  flags = train_step.parse(arguments, __doc__, models="dense")
  found = {"model": flags.models, **measure(flags)}
  table = rich.table.Table(title="seconds")
  for name in found:
    table.add_column(name, justify="left" if name == "model" else "right")
  table.add_row(
    *(v if isinstance(v, str) else f"{v:.3f}" for v in found.values())
  )
  rich.console.Console().print(table)
  if flags.json:
    Path(flags.json).write_text(json.dumps(found, indent=2))


if __name__ == "__main__":
  main()

"""Step after step: what happens between a batch and its `Moment`."""

import contextlib
import hashlib
from collections.abc import Sequence

import jax

from taskmoe_jax.data.batches import TrainBatches
from taskmoe_jax.data.prefetch import prefetch
from taskmoe_jax.partitioning.rules import activate
from taskmoe_jax.train import hosts
from taskmoe_jax.train.hooks import Hook, Moment, TimeSpent
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.state import TrainState

_PREFETCHED_BATCHES = 4


def run_steps(
  program: Program,
  data: TrainBatches,
  batch_size: int,
  state: TrainState,
  last_step: int,
  hooks: Sequence[Hook],
  spent: TimeSpent,
) -> tuple[int, str | None]:
  """Trains until `last_step`, or until a hook says stop.

  Nothing here waits for the devices: a step is only handed to them, and the
  next batch is brought to them while they work. JAX is told to refuse a step
  that would have to wait for data. Hooks wait where they report.

  Returns:
    Steps done in all, and why a hook has said stop, if one has.
  """
  done, stop = int(state.step), None
  step = program.compiled_step()
  calling = "compilation"
  with contextlib.ExitStack() as stack:
    stack.enter_context(activate(program.partitioning))
    stream = prefetch(data, depth=_PREFETCHED_BATCHES)
    stack.callback(lambda: stream.close())
    while done < last_step:
      with spent.on("input"):
        batch, position = next(stream)
        batch = program.on_devices(batch, batch_size)
      with spent.on(calling):
        if calling == "compilation":
          _check_program(step, state, batch)
        with jax.transfer_guard("disallow"):
          state, metrics = step(state, batch)
      calling = "steps"
      moment = Moment(done + 1, last_step, state, position, metrics, spent)
      for hook in hooks:
        with spent.on(hook.name):
          hook.after_step(moment)
      done, state = moment.done, moment.state
      if stop := moment.stop:
        break
      if moment.went_back:
        stream.close()
        data.restore(moment.position)
        stream = prefetch(data, depth=_PREFETCHED_BATCHES)
  return done, stop


def _check_program(step, state: TrainState, batch) -> None:
  """Compares what the processes are about to compile.

  Processes with different programs would wait for each other in different
  collectives, for ever and without a word.
  """
  if jax.process_count() > 1:
    text = step.lower(state, batch).as_text()
    digest = hashlib.sha256(text.encode()).hexdigest()
    hosts.check_agreement("program", {"the program of a step": digest})

"""The steps of a run: from each batch to its `Moment` and the hooks."""

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax

from taskmoe_jax.data.batches.batches import TrainBatches, prefetch
from taskmoe_jax.hosts import processes
from taskmoe_jax.partitioning.rules import activate
from taskmoe_jax.train.hooks.hook import Hook, Moment, TimeSpent, TimeUse
from taskmoe_jax.train.program import Program
from taskmoe_jax.train.step.state import TrainState

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
  """Trains until `last_step`, or until a hook stops the run.

  Nothing here waits for the devices: a step is only handed to them, and the
  next batch is brought to them while they work. JAX is told to refuse a step
  that would have to wait for data. Hooks wait where they report.

  Returns:
    Steps done in all, and why a hook has stopped the run, if one has.
  """
  done, stop = int(state.step), None
  step = program.compiled_step()
  calling = TimeUse.COMPILATION
  with contextlib.ExitStack() as stack:
    stack.enter_context(activate(program.partitioning))
    stream = prefetch(data, depth=_PREFETCHED_BATCHES)
    stack.callback(lambda: stream.close())
    while done < last_step:
      with spent.on(TimeUse.INPUT):
        rows, position = next(stream)
        batch = program.on_devices(rows, batch_size)
      with spent.on(calling):
        if calling is TimeUse.COMPILATION:
          step = _same_everywhere(step, state, batch)
        with jax.transfer_guard("disallow"):
          state, metrics = step(state, batch)
      calling = TimeUse.STEPS
      moment = Moment(done + 1, last_step, state, position, metrics, spent)
      for hook in hooks:
        with spent.on(hook.time_use):
          hook.after_step(moment)
      done, state = moment.done, moment.state
      if stop := moment.stop:
        break
      if moment.went_back:
        stream.close()
        data.restore(dict(moment.position))
        stream = prefetch(data, depth=_PREFETCHED_BATCHES)
  return done, stop


def _same_everywhere(
  step: Any, state: TrainState, batch: Mapping[str, jax.Array]
) -> Callable:
  """The compiled step, once all processes have compiled the same program.

  Processes with different programs would wait for each other in different
  collectives, silently and for ever. And a process that has compiled half a
  minute before another would give up on the first collective.
  """
  if jax.process_count() == 1:
    return step
  lowered = step.lower(state, batch)
  digest = hashlib.sha256(lowered.as_text().encode()).hexdigest()
  processes.check_agreement("program", {"the program of a step": digest})
  compiled = lowered.compile()
  processes.wait_for_all("compiled")
  return compiled

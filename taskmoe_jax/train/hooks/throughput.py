"""How fast a run trains, measured without making the devices wait."""

import contextlib
import queue
import resource
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from taskmoe_jax.models.flops import peak_flops, token_flops
from taskmoe_jax.train.hooks.hook import (
  Hook,
  Moment,
  Place,
  TimeUse,
  examples_read,
)
from taskmoe_jax.train.program import Program

# Time that trains nothing. The rest is steps and their reports.
_LOST = (
  TimeUse.RESTORING,
  TimeUse.COMPILATION,
  TimeUse.INPUT,
  TimeUse.CHECKPOINTS,
  TimeUse.EVALUATION,
  TimeUse.PROFILING,
)


class Goodput(Hook):
  """The share of time since this start that went into steps, and the rest.

  `time/input` (waiting for batches), `time/checkpoints` and `time/evaluation`,
  `time/compilation`, `time/restoring` (or initializing the parameters) and
  `time/profiling` are shares of all the time since the run was started, and
  `goodput` is 1 minus their sum.
  """

  place = Place.MEASURE

  def after_step(self, moment: Moment) -> None:
    if moment.report_due:
      seconds, total = moment.spent.seconds, moment.spent.total
      shares = {use: seconds.get(use, 0.0) / total for use in _LOST}
      moment.report["goodput"] = 1 - sum(shares.values())
      moment.report |= {f"time/{use}": share for use, share in shares.items()}


class Memory(Hook):
  """Peak memory since the start of the process, in units of 1e9 bytes.

  `memory/host_peak_gb` of this process and, where the devices report them,
  `memory/device_peak_gb` of the fullest of its devices and
  `memory/device_limit_gb`, all the memory of that device. A CPU does not.
  """

  place = Place.MEASURE

  def after_step(self, moment: Moment) -> None:
    if not moment.report_due:
      return
    moment.report["memory/host_peak_gb"] = host_peak_bytes() / 1e9
    statistics = [device.memory_stats() for device in jax.local_devices()]
    told = [found for found in statistics if found]
    if told:
      fullest = max(told, key=lambda found: found.get("peak_bytes_in_use", 0))
      for name, key in (
        ("peak", "peak_bytes_in_use"),
        ("limit", "bytes_limit"),
      ):
        if key in fullest:
          moment.report[f"memory/device_{name}_gb"] = fullest[key] / 1e9


def host_peak_bytes() -> int:
  """The peak memory of this process."""
  # Linux counts in units of 1024 bytes, macOS in bytes.
  unit = 1 if sys.platform == "darwin" else 1024
  return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


_PERCENTILES = (50, 90, 99)


class StepClock:
  """When each step was done, by a thread that waits in place of the loop.

  The loop hands a step to the devices long before they run it, so its clock
  says nothing about a single step; and if it waited for each, the devices would
  wait for it in turn.
  """

  def __init__(self, clock: Callable[[], float] = time.perf_counter):
    self._clock = clock
    self._steps: queue.Queue[Any] = queue.Queue()
    self._done: list[float] = []
    self._thread = threading.Thread(
      target=self._wait, name="step-clock", daemon=True
    )
    self._thread.start()

  def add(self, result: Any) -> None:
    """Adds a step, by an output of it that is not donated."""
    self._steps.put(result)

  def take(self) -> list[float]:
    """Waits for the steps since the last call; when each of them was done."""
    self._steps.join()
    done, self._done = self._done, []
    return done

  def close(self) -> None:
    self._steps.put(None)
    self._thread.join()

  def _wait(self) -> None:
    while (result := self._steps.get()) is not None:
      # The loop sees the failure of a step as well, and reports it.
      with contextlib.suppress(Exception):
        jax.block_until_ready(result)
      self._done.append(self._clock())
      self._steps.task_done()


class Throughput(Hook):
  """Tokens and examples a second, step times, and MFU, since the last report.

  `tokens_per_second` counts target tokens and `examples_per_second` sentence
  pairs, of all devices and hosts together, over all of the time.
  `step_seconds/p50`, `p90`, `p99` and `max` are over the times from the end of
  one step to the end of the next, so that anything that delays a step shows.
  `model_tflops_per_second_per_device` and, where the chip's peak is known,
  `mfu`, its share of that, count what the mathematics needs for the places of
  the batch (`models.flops`). The first report of a start includes
  compilation.

  Attributes:
    tokens_per_second: Over all reports but the first.
  """

  place = Place.MEASURE

  def __init__(
    self,
    program: Program,
    *,
    batch_size: int,
    lengths: tuple[int, int],
    first_examples: int,
    clock: Callable[[], float] = time.perf_counter,
  ):
    """Starts the clock.

    Args:
      program: Knows the devices and the model.
      batch_size: Rows of a batch.
      lengths: Tokens of a source row and of a target row.
      first_examples: Examples read before this start of the run.
      clock: Seconds, from any starting point.
    """
    devices = program.partitioning.mesh.devices
    source, target = lengths
    flops = token_flops(
      program.step.model.config, source_length=source, target_length=target
    )
    self._step_flops = (
      flops.training_step(batch_size * source, batch_size * target)
      / devices.size
    )
    self._peak = peak_flops(devices.flat[0].device_kind)
    self._examples = first_examples
    self._clock = clock
    self._steps = StepClock(clock)
    self._since = clock()
    self._last_done: float | None = None
    self._reports = 0
    self._tokens = self._seconds = 0.0

  def after_step(self, moment: Moment) -> None:
    self._steps.add(moment.metrics.tokens)
    if moment.report_due:
      moment.report |= self._report(
        moment.tokens, examples_read(moment.position)
      )

  def _report(self, tokens: float, examples: int) -> dict[str, Any]:
    done = self._steps.take()
    now = self._clock()
    seconds, self._since = now - self._since, now
    if self._reports:
      self._tokens += tokens
      self._seconds += seconds
    self._reports += 1
    flops = len(done) * self._step_flops / seconds
    report = {
      "tokens_per_second": tokens / seconds,
      "examples_per_second": (examples - self._examples) / seconds,
      "model_tflops_per_second_per_device": flops / 1e12,
    }
    self._examples = examples
    if self._peak is not None:
      report["mfu"] = flops / self._peak
    return report | self._step_seconds(done)

  def _step_seconds(self, done: list[float]) -> dict[str, float]:
    before = [] if self._last_done is None else [self._last_done]
    self._last_done = done[-1]
    times = np.diff([*before, *done])
    if not times.size:
      return {}
    values = np.percentile(times, _PERCENTILES)
    report = {
      f"step_seconds/p{percent}": value
      for percent, value in zip(_PERCENTILES, values, strict=True)
    }
    return report | {"step_seconds/max": times.max()}

  @property
  def tokens_per_second(self) -> float:
    return self._tokens / self._seconds if self._seconds else 0.0

  def close(self) -> None:
    self._steps.close()

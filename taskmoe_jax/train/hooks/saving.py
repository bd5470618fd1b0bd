"""The hooks that save: when a checkpoint is due, and at SIGTERM."""

import signal
import threading
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils

from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints
from taskmoe_jax.train.hooks.hook import Hook, Moment, Place, TimeUse


class Interruption(Hook):
  """Asks for a report, a checkpoint and the end of the run at SIGTERM.

  That is how Slurm, Kubernetes and the preemption of a TPU VM announce
  themselves. With several processes JAX handles the signal, and lets all of
  them learn of it at the same step.

  The report is so that no step goes unreported: what is collected for the next
  one is not part of a checkpoint.
  """

  place = Place.REQUEST

  def __init__(self):
    self._signalled = False
    self._before = None
    alone = jax.process_count() == 1
    if alone and threading.current_thread() is threading.main_thread():
      self._before = signal.signal(signal.SIGTERM, self._take_notice)

  def _take_notice(self, *_) -> None:
    self._signalled = True

  def after_step(self, moment: Moment) -> None:
    if self._signalled or (
      jax.process_count() > 1
      and multihost_utils.reached_preemption_sync_point(moment.done)
    ):
      moment.report_due = moment.save_due = True
      moment.stop = "SIGTERM"

  def close(self) -> None:
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)


class Saving(Hook):
  """Saves when a checkpoint is due."""

  place = Place.SAVE
  time_use = TimeUse.CHECKPOINTS

  def __init__(self, checkpoints: Checkpoints, description: Mapping[str, Any]):
    self._checkpoints = checkpoints
    self._description = description

  def after_step(self, moment: Moment) -> None:
    self._checkpoints.check()
    if moment.went_back:
      return
    # Between reports the clock is not consulted: all hosts have to agree on it.
    due = moment.save_due or self._checkpoints.is_due(
      moment.done, moment.last_step, may_ask=moment.report_due
    )
    if due:
      self._checkpoints.save(
        moment.state, moment.position, self._description, moment.report
      )

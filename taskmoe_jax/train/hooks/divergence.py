"""Stops or rolls back a run that diverges: skipped updates, loss spikes."""

import collections
import dataclasses
import statistics
from collections.abc import Callable

import jax
import numpy as np

from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints
from taskmoe_jax.train.hooks.hook import Hook, Moment, Place
from taskmoe_jax.train.step.state import TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class DivergencePolicy:
  """When to roll back, and when to give up.

  Attributes:
    stop_after_skipped: A run has diverged after this many skipped updates in a
      row (see `train.step.step`: their loss or gradients were not finite).
    spike_factor: It has also diverged if the mean loss of the steps of a report
      is more than this many times the median of the steps before them; None for
      never.
    spike_window: Number of steps that the median is taken over.
    max_rollbacks: On divergence the run returns to its last checkpoint and
      continues with the batches that come next, so that those of the divergence
      are left out (as PaLM did, arXiv 2204.02311, section 5.1): at most this
      many times in one start. Then, or with 0, it stops.
    stall_minutes: Minutes without a step after which the process ends (see
      `train.hooks.stall`); None for never.
  """

  stop_after_skipped: int
  spike_factor: float | int | None
  spike_window: int
  max_rollbacks: int
  stall_minutes: float | int | None

  def __post_init__(self):
    check_at_least(
      1,
      "DivergencePolicy",
      stop_after_skipped=self.stop_after_skipped,
      spike_window=self.spike_window,
    )
    check_at_least(0, "DivergencePolicy", max_rollbacks=self.max_rollbacks)
    if self.spike_factor is not None and not self.spike_factor > 1:
      raise TaskMoeError(
        f"spike_factor={self.spike_factor} is not above 1. Set"
        " DivergencePolicy.spike_factor, or leave it None."
      )
    if self.stall_minutes is not None and not self.stall_minutes > 0:
      raise TaskMoeError(
        f"stall_minutes={self.stall_minutes} is not above 0. Set STALL_MINUTES,"
        " or None for no limit."
      )


class Divergence(Hook):
  """Examines the steps of every report.

  Not each step, since that would wait for it. At reports all hosts see the same
  numbers, so that they act alike.
  """

  place = Place.JUDGE

  def __init__(
    self,
    policy: DivergencePolicy,
    checkpoints: Checkpoints,
    abstract_state: Callable[[], TrainState],
    say: Callable[[str], None],
  ):
    self._policy = policy
    self._checkpoints = checkpoints
    self._abstract_state = abstract_state
    self._say = say
    self._steps: list[tuple] = []
    self._before: collections.deque[float] = collections.deque(
      maxlen=policy.spike_window
    )
    self._in_a_row = 0
    self._rollbacks = 0

  def after_step(self, moment: Moment) -> None:
    metrics = moment.metrics
    self._steps.append((metrics.loss, metrics.tokens, metrics.skipped))
    if not moment.report_due:
      return
    problem = self._problem()
    if problem is None:
      return
    problem = f"step {moment.done}: {problem}"
    if self._rollbacks == self._policy.max_rollbacks:
      # A checkpoint that is being written is to be there when the run stops.
      self._checkpoints.wait()
      raise TaskMoeError(
        f"{problem}, and the run has been rolled back {self._rollbacks} times"
        f" of DivergencePolicy.max_rollbacks={self._policy.max_rollbacks};"
        f" {self._checkpoints.last_good()}. Lower the learning rate or set"
        " clip_global_norm, and start the run again to resume from there."
      )
    self._roll_back(moment, problem)

  def _problem(self) -> str | None:
    """What is wrong with the steps since the last report, if anything."""
    steps, self._steps = jax.device_get(self._steps), []
    losses = []
    for loss, tokens, skipped in steps:
      self._in_a_row = self._in_a_row + 1 if skipped else 0
      if self._in_a_row == self._policy.stop_after_skipped:
        return f"{self._in_a_row} updates in a row were not finite, and skipped"
      if not skipped and tokens:
        losses.append(float(loss / tokens))
    spike = self._spike(losses)
    self._before.extend(losses)
    return spike

  def _spike(self, losses: list[float]) -> str | None:
    factor = self._policy.spike_factor
    if factor is None or not losses:
      return None
    if len(self._before) < self._policy.spike_window:
      return None
    usual, now = statistics.median(self._before), float(np.mean(losses))
    if now <= factor * usual:
      return None
    return f"a loss of {now:.3f} is more than {factor} times {usual:.3f}"

  def _roll_back(self, moment: Moment, problem: str) -> None:
    if self._checkpoints.latest_step is None:
      raise TaskMoeError(
        f"{problem}; there is no checkpoint yet to return to. Lower the"
        " learning rate, set clip_global_norm, or lower CHECKPOINT_EVERY."
      )
    restored = self._checkpoints.restore(self._abstract_state())
    self._rollbacks += 1
    self._in_a_row = 0
    self._before.clear()
    self._say(
      f"{problem}; rolling back ({self._rollbacks} of"
      f" {self._policy.max_rollbacks} times), and continuing after the batches"
      f" that led here: {restored.description}"
    )
    # The data continues from where it is.
    moment.go_back_to(restored.state, moment.position)

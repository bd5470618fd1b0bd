"""The hook that sees a run go wrong: skipped updates, spikes of the loss."""

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
  """When to go back, and when to give up.

  Attributes:
    stop_after_skipped: After so many skipped updates in a row there is trouble
      (see `train.step.step`: their loss or gradients were not finite).
    spike_factor: So is there if the mean loss of the steps of a report is this
      many times the median of the steps before them; None for never.
    spike_window: How many steps that median is of.
    max_rollbacks: In trouble the run goes back to its last checkpoint, and on
      with the batches that come next, so that those of the trouble are left
      out (as PaLM did, arXiv 2204.02311, section 5.1). So many times in one
      start; then, or with 0, it stops.
    stall_minutes: After so many without a step the process ends (see
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
  """Looks at the steps of every report; before the hook that saves.

  Not at each step: that would wait for it. And at reports all hosts see the
  same, so that they act alike.
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
    trouble = self._look()
    if trouble is None:
      return
    trouble = f"step {moment.done}: {trouble}"
    if self._rollbacks == self._policy.max_rollbacks:
      # What is being written will be there when the run has stopped.
      self._checkpoints.wait()
      raise TaskMoeError(
        f"{trouble}, and the run has gone back {self._rollbacks} times of"
        f" DivergencePolicy.max_rollbacks={self._policy.max_rollbacks};"
        f" {self._checkpoints.last_good()}. Lower the learning rate or set"
        " clip_global_norm, and start the run again to go on from there."
      )
    self._go_back(moment, trouble)

  def _look(self) -> str | None:
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

  def _go_back(self, moment: Moment, trouble: str) -> None:
    if self._checkpoints.latest_step is None:
      raise TaskMoeError(
        f"{trouble}; there is no checkpoint yet to go back to. Lower the"
        " learning rate, set clip_global_norm, or lower CHECKPOINT_EVERY."
      )
    restored = self._checkpoints.restore(self._abstract_state())
    self._rollbacks += 1
    self._in_a_row = 0
    self._before.clear()
    self._say(
      f"{trouble}; going back ({self._rollbacks} of"
      f" {self._policy.max_rollbacks} times), and on behind the batches of that"
      f" trouble: {restored.description}"
    )
    # The data goes on from where it is.
    moment.go_back_to(restored.state, moment.position)

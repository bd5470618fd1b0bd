"""What a run does when its loss is not finite, or leaps."""

import numpy as np
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.train.checkpoints.checkpoints import Checkpoints, Restored
from taskmoe_jax.train.hooks.divergence import Divergence, DivergencePolicy
from taskmoe_jax.train.hooks.hook import Moment, TimeSpent
from taskmoe_jax.train.step.state import TrainState
from taskmoe_jax.train.step.step import StepMetrics

NAN = float("nan")


def _state(step):
  return TrainState(np.int32(step), {}, {}, np.int32(0))


class _Checkpoints(Checkpoints):
  """One, of step 2, unless there is none yet."""

  latest_step = None

  def __init__(self, latest_step):
    self.latest_step = latest_step
    self.written = False

  def wait(self):
    self.written = True

  def last_good(self):
    assert self.written  # Or one that is being written is not named.
    return f"the last good checkpoint is {self.latest_step}"

  def restore(self, abstract):
    assert abstract == "abstract"
    return Restored(_state(self.latest_step), {}, "step 2 restored")


@pytest.fixture
def watch():
  """Runs steps of these losses, NaN for a skipped one; reports every two.

  Returns where the run is after each step.
  """

  def watch(losses, latest_step=2, **changes):
    policy = DivergencePolicy(
      **{
        "stop_after_skipped": 3,
        "spike_factor": 1.5,
        "spike_window": 2,
        "max_rollbacks": 1,
        "stall_minutes": None,
        **changes,
      }
    )
    hook = Divergence(
      policy, _Checkpoints(latest_step), lambda: "abstract", said.append
    )
    done, places = 0, []
    for number, loss in enumerate(losses, 1):
      rows, zero, tokens, loss, skipped = (
        np.asarray(value, np.float32)
        for value in ([0, 0], 0, 5, 5 * loss, np.isnan(loss))
      )
      metrics = StepMetrics(
        *(loss, zero, tokens, rows, rows, zero, zero, zero),
        *({}, zero, skipped, {}),
      )
      moment = Moment(
        *(done + 1, 99, _state(done + 1), {"batches": number}, metrics),
        TimeSpent(),
      )
      moment.report_due = moment.done % 2 == 0
      hook.after_step(moment)
      if moment.went_back:
        # Past the batches of the trouble, whatever the state.
        assert moment.position == {"batches": number}
      done = moment.done
      places.append(done)
    return places

  said = []
  watch.said = said
  return watch


def test_a_spike_goes_back_to_the_checkpoint_and_past_its_batches(watch):
  assert watch([3, 3, 3, 2.9, 9, 9, 3, 3]) == [1, 2, 3, 4, 5, 2, 3, 4]
  assert watch.said == [
    "step 6: a loss of 9.000 is more than 1.5 times 2.950; rolling back (1 of 1"
    " times), and on behind the batches of that trouble: step 2 restored"
  ]


def test_going_back_is_bounded(watch):
  with pytest.raises(
    TaskMoeError,
    match=r"step 6: a loss of 9\.000 is more than 1\.5 times 3\.000, and the"
    r" run has been rolled back 1 times of DivergencePolicy\.max_rollbacks=1;"
    r" the last good checkpoint is 2\. Lower the learning rate",
  ):
    watch([3, 3, 3, 3, 9, 9, 3, 3, 9, 9])


def test_skipped_updates_in_a_row(watch):
  # Two, and two: not three in a row.
  assert watch([3, NAN, NAN, 3, NAN, NAN, 3, 3])[-1] == 8
  assert watch.said == []
  # Over the boundary of a report.
  assert watch([3, 3, 3, NAN, NAN, NAN, 3, 3]) == [1, 2, 3, 4, 5, 2, 3, 4]
  with pytest.raises(
    TaskMoeError,
    match=r"step 4: 3 updates in a row were not finite, and skipped, and .* the"
    r" last good checkpoint is 2\.",
  ):
    watch([3, NAN, NAN, NAN], max_rollbacks=0)


def test_no_checkpoint_to_go_back_to(watch):
  with pytest.raises(TaskMoeError, match="no checkpoint yet to return to"):
    watch([NAN] * 4, latest_step=None)


def test_spikes_may_be_left_alone(watch):
  assert watch([3, 3, 3, 3, 99, 99], spike_factor=None)[-1] == 6


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"stop_after_skipped": 0}, "stop_after_skipped=0 is not at least 1"),
    ({"spike_factor": 1}, r"spike_factor=1 is not above 1\. Set DivergencePol"),
    ({"max_rollbacks": -1}, "max_rollbacks=-1 is not at least 0"),
    ({"stall_minutes": 0}, r"stall_minutes=0 is not above 0\. Set STALL_MIN"),
  ],
)
def test_policies_that_cannot_be(watch, changes, message):
  with pytest.raises(TaskMoeError, match=message):
    watch([], **changes)

"""The hook that saves."""

from collections.abc import Mapping
from typing import Any

from taskmoe_jax.train.checkpoints import Checkpoints
from taskmoe_jax.train.hooks import Hook, Moment


class Saving(Hook):
  """Saves when a checkpoint is due; behind everything that may change a state.

  It follows the hooks that write reports: so a checkpoint's run has the lines
  of all its steps.
  """

  name = "checkpoints"

  def __init__(self, checkpoints: Checkpoints, description: Mapping[str, Any]):
    self._checkpoints = checkpoints
    self._description = description

  def after_step(self, moment: Moment) -> None:
    self._checkpoints.check()
    if moment.went_back:
      return
    # Between reports nobody is asked for the time: all hosts have to agree.
    due = moment.save_due or self._checkpoints.is_due(
      moment.done, moment.last_step, may_ask=moment.report_due
    )
    if due:
      self._checkpoints.save(
        moment.state, moment.position, self._description, moment.report
      )

"""When checkpoints are written, and which of them are kept."""

import dataclasses
import enum
import logging
import math
from collections.abc import Mapping
from typing import Any

import orbax.checkpoint as ocp

from taskmoe_jax.errors import TaskMoeError, check_at_least, check_members

_logger = logging.getLogger(__name__)


class Best(enum.StrEnum):
  """Which scores are better."""

  LOWEST = "lowest"
  HIGHEST = "highest"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointPolicy:
  """When to save and what to keep.

  Attributes:
    every_steps: Number of steps between checkpoints; one is also written after
      the last step.
    keep: Number of recent checkpoints to keep on disk.
    every_minutes: A checkpoint is also written when the last is this old, at
      the next report; None for by steps alone.
    keep_best: Number of best checkpoints to keep besides. A checkpoint has a
      score if its step was evaluated: see `train.loop.train`.
    best_metric: The name of the score in `metrics.jsonl`.
    best: Which scores are better.
  """

  every_steps: int
  keep: int
  every_minutes: float | int | None = None
  keep_best: int = 0
  best_metric: str = "eval/loss"
  best: Best = Best.LOWEST

  def __post_init__(self):
    check_members("CheckpointPolicy", best=(Best, self.best))
    check_at_least(
      1, "CheckpointPolicy", every_steps=self.every_steps, keep=self.keep
    )
    check_at_least(0, "CheckpointPolicy", keep_best=self.keep_best)
    if self.every_minutes is not None and not self.every_minutes > 0:
      raise TaskMoeError(
        f"every_minutes={self.every_minutes} is not above 0. Set"
        " CheckpointPolicy.every_minutes, or leave it None."
      )

  def check_reports(self, log_every: int) -> None:
    """Refuses checkpoints between reports."""
    if log_every < 1 or self.every_steps % log_every:
      raise TaskMoeError(
        f"every_steps={self.every_steps} is not a multiple of"
        f" log_every={log_every}, so a resumed run would not report what an"
        " uninterrupted one does. Set CHECKPOINT_EVERY or LOG_EVERY."
      )

  def score(self, metrics: Mapping[str, Any]) -> float | None:
    """The score of a checkpoint; None if its step was not evaluated."""
    value = metrics.get(self.best_metric)
    if value is None or not math.isfinite(value):
      if self.keep_best:
        _logger.warning(
          "a checkpoint without %s is not among the best", self.best_metric
        )
      return None
    return float(value)

  def preservation(self) -> Any:
    """Orbax's policy: keep the newest, and the best."""
    policies = ocp.checkpoint_managers
    sign = -1 if self.best is Best.LOWEST else 1

    def goodness(metrics):
      score = metrics["score"]
      return -math.inf if score is None else sign * score

    return policies.AnyPreservationPolicy(
      [
        policies.LatestN(self.keep),
        policies.BestN(
          get_metric_fn=goodness,
          n=self.keep_best,
          keep_checkpoints_without_metrics=False,
        ),
      ]
    )

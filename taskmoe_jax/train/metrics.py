"""From sums over steps to the numbers of a report."""

from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike

from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.step import StepMetrics


class MetricSums:
  """Collects the metrics of steps until they are reported.

  They stay on the devices till then, so that the loop runs ahead of them.
  """

  def __init__(self, model: ModelConfig, task_space: TaskSpace):
    self._model = model
    self._task_space = task_space
    self._steps: list[StepMetrics] = []

  def add(self, metrics: StepMetrics) -> None:
    self._steps.append(metrics)

  def report(self, learning_rate: ArrayLike) -> dict[str, Any]:
    """Returns means over the collected steps, and begins anew.

    The names: `loss` (nats a target token), `accuracy`, `learning_rate`,
    `gradient_norm`, `tokens` (target tokens, a sum), `loss/pair/de-en` for each
    pair that was seen, and for each stack and MoE layer, counted from 0,
    `routing/decoder/layer_1/{load,entropy,dropped,balance_loss,z_loss}`. A load
    is an array: the share of choices that fell on each expert.
    """
    steps, self._steps = jax.device_get(self._steps), []

    def total(pick):
      return np.sum([pick(step) for step in steps], axis=0, dtype=np.float64)

    tokens = total(lambda step: step.tokens)
    report = {
      "loss": total(lambda step: step.loss) / max(tokens, 1.0),
      "accuracy": total(lambda step: step.correct) / max(tokens, 1.0),
      "learning_rate": float(learning_rate),
      "gradient_norm": total(lambda step: step.gradient_norm) / len(steps),
      "tokens": tokens,
    }
    pair_tokens = total(lambda step: step.pair_tokens)
    pair_loss = total(lambda step: step.pair_loss)
    for pair, count, loss in zip(
      self._task_space.pairs, pair_tokens, pair_loss, strict=True
    ):
      if count:
        report[f"loss/pair/{pair}"] = loss / count
    for name in steps[0].routing:
      report |= self._routing_report(
        name, [step.routing[name] for step in steps]
      )
    return report

  def _routing_report(self, name: str, statistics: list) -> dict[str, Any]:
    stack = getattr(self._model, name)
    report = {}
    for field in ("load", "entropy", "dropped", "balance_loss", "z_loss"):
      values = np.mean([getattr(s, field) for s in statistics], axis=0)
      for block in range(stack.num_blocks):
        layer = (block + 1) * stack.block_size - 1
        report[f"routing/{name}/layer_{layer}/{field}"] = values[block]
    return report

"""From sums over steps to the numbers of a report."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.moe.statistics import RoutingStatistics, overlap
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train.step.step import StepMetrics


class MetricSums:
  """Collects the metrics of steps until they are reported.

  Until then they stay on the devices, so that the loop runs ahead of them.
  """

  def __init__(self, model: ModelConfig, task_space: TaskSpace):
    self._model = model
    self._task_space = task_space
    self._steps: list[StepMetrics] = []

  def add(self, metrics: StepMetrics) -> None:
    self._steps.append(metrics)

  def report(self) -> dict[str, Any]:
    """Returns means over the tokens of the collected steps, and starts over.

    The names: `loss` (nats a target token), `accuracy`, `z_loss` (mean square
    of the logits' log-partitions), `learning_rate` (of the last step, if the
    optimizer says it), `gradient_norm`, and `gradient_norm/routers` and others
    of groups of parameters, `data/row_fill` (share of places that hold a token,
    in the fuller side of each row), `tokens` (target tokens, a sum),
    `skipped_updates` (number of steps), `loss/pair/de-en` for each pair that
    was seen, and for each stack and MoE layer, counted from 0, what
    `routing_report` says. All but the two sums leave out skipped steps, which
    are not finite; unless all steps were skipped.
    """
    collected, self._steps = jax.device_get(self._steps), []
    steps = [step for step in collected if not step.skipped] or collected

    def total(pick):
      return np.sum([pick(step) for step in steps], axis=0, dtype=np.float64)

    tokens = total(lambda step: step.tokens)
    report = {
      "loss": total(lambda step: step.loss) / max(tokens, 1.0),
      "accuracy": total(lambda step: step.correct) / max(tokens, 1.0),
      "z_loss": total(lambda step: step.z_loss) / max(tokens, 1.0),
      **_learning_rate(steps[-1]),
      "gradient_norm": total(lambda step: step.gradient_norm) / len(steps),
      "data/row_fill": total(lambda step: step.row_fill) / len(steps),
      "tokens": sum(float(step.tokens) for step in collected),
      "skipped_updates": sum(int(step.skipped) for step in collected),
    }
    for group in steps[0].gradient_norms:
      norms = [step.gradient_norms[group] for step in steps]
      report[f"gradient_norm/{group}"] = np.mean(norms, dtype=np.float64)
    pair_tokens = total(lambda step: step.pair_tokens)
    pair_loss = total(lambda step: step.pair_loss)
    for pair, count, loss in zip(
      self._task_space.pairs, pair_tokens, pair_loss, strict=True
    ):
      if count:
        report[f"loss/pair/{pair}"] = loss / count
    for name in steps[0].routing:
      stack = getattr(self._model, name)
      statistics = together([step.routing[name] for step in steps])
      for block, layer in enumerate(stack.moe_layers):
        found = routing_report(statistics, block, self._task_space.tasks)
        prefix = f"routing/{name}/layer_{layer}"
        report |= {f"{prefix}/{key}": value for key, value in found.items()}
    return report


def _learning_rate(step: StepMetrics) -> dict[str, float]:
  rate = step.learning_rate
  return {} if rate is None else {"learning_rate": float(rate)}


def together(steps: Sequence[RoutingStatistics]) -> RoutingStatistics:
  """Statistics of several steps as of one; losses are means over tokens."""
  tokens = np.stack([step.task_tokens.sum(-1) for step in steps])
  weights = tokens / np.maximum(tokens.sum(0), 1.0)

  def mean(losses):
    return np.sum(weights * np.stack(losses), axis=0, dtype=np.float64)

  def total(arrays):
    return np.sum(arrays, axis=0, dtype=np.float64)

  return RoutingStatistics(
    balance_loss=mean([step.balance_loss for step in steps]),
    z_loss=mean([step.z_loss for step in steps]),
    task_tokens=total([step.task_tokens for step in steps]),
    task_choices=total([step.task_choices for step in steps]),
    task_entropies=total([step.task_entropies for step in steps]),
    task_drops=total([step.task_drops for step in steps]),
  )


def routing_report(
  statistics: RoutingStatistics, block: int, tasks: Sequence[str]
) -> dict[str, Any]:
  """What is logged about the MoE layer of a block.

  `load` (an array: the share of choices that fell on each expert), `entropy`,
  `dropped`, `balance_loss`, `z_loss`; of each task that was seen
  `task/de/{load,entropy,dropped}`; and, once two tasks were, `overlap`, see
  there, and `overlap_mean`, its mean over every two tasks.
  """
  report: dict[str, Any] = {"load": _short(statistics.load[block])}
  for name in ("entropy", "dropped", "balance_loss", "z_loss"):
    report[name] = getattr(statistics, name)[block]
  load = np.asarray(statistics.task_load[block])
  entropy = statistics.task_entropy[block]
  dropped = statistics.task_dropped[block]
  seen = np.flatnonzero(statistics.task_tokens[block])
  for task in seen:
    name = f"task/{tasks[int(task)]}"
    report[f"{name}/load"] = _short(load[task])
    report[f"{name}/entropy"] = entropy[task]
    report[f"{name}/dropped"] = dropped[task]
  if len(seen) > 1:
    report["overlap"] = shared = overlap(load[seen])
    report["overlap_mean"] = shared[~np.eye(len(seen), dtype=bool)].mean()
  return report


def _short(shares: Float[Array | np.ndarray, "E"]) -> Float[np.ndarray, "E"]:
  """In float32, which takes half the space in a line of the log."""
  return np.asarray(shares, np.float32)

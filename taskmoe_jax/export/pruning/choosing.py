"""Which experts of a model routed by its text are kept, and which are not.

Where tokens or sentences choose for themselves no sub-network is exact. But of
one language most experts are hardly used, and the router does without them:
Koishekenov et al. (arXiv 2212.09811) prune 80 % of NLLB-200's experts without
any further training. Experts are ranked by what the gate thinks of them on a
development set, their *importance* being

  imp(e) = activity(e) · exp(confidence(e)),

with `activity` the share of tokens whose best expert it is, and `confidence`
its mean probability there.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int, PyTree

from taskmoe_jax.errors import TaskMoeError, as_member
from taskmoe_jax.export.extract import slice_experts
from taskmoe_jax.export.selection import how_routed
from taskmoe_jax.models.config import ModelConfig, StackConfig


class PruneBy(enum.StrEnum):
  """What one bundle is for, and which pairs' statistics rank its experts."""

  TASK = "task"  # a task; of its own pairs
  PAIR = "pair"  # a pair; of this pair
  # A pair; in the encoder of all pairs with its source, in the decoder of all
  # with its target: the best of the paper.
  LANGUAGE = "language"
  ALL = "all"  # all that is asked for, in one bundle; of all these pairs


class PruneLayers(enum.StrEnum):
  """How many experts each layer keeps."""

  EVEN = "even"  # as many as every other layer of its stack
  GLOBAL = "global"  # more where the statistics are spread over more experts


class PruneMetric(enum.StrEnum):
  """What experts are ranked by."""

  IMPORTANCE = "importance"
  ACTIVITY = "activity"
  CONFIDENCE = "confidence"
  USE = "use"  # in training: Z-code M3, arXiv 2109.10465


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pruning:
  """How to prune.

  Attributes:
    rate: Share of the experts that is taken away.
    by: What a bundle is for.
    layers: How the experts that are kept are spread over layers.
    metric: What experts are ranked by.
    encoder_share: Share of the kept experts that are in the encoder; 0.75 is
      the paper's 3:1. None leaves each stack its part of all experts or, where
      `layers` is `global`, what the statistics say.
  """

  rate: float
  by: PruneBy
  layers: PruneLayers
  metric: PruneMetric
  encoder_share: float | None = None

  @classmethod
  def named(
    cls,
    rate: float,
    *,
    by: str,
    layers: str,
    metric: str,
    encoder_share: float | None = None,
  ) -> "Pruning":
    """With members in place of their names, as flags have them."""
    return cls(
      rate,
      as_member(PruneBy, "prune_by", by, "--by"),
      as_member(PruneLayers, "prune_layers", layers, "--layers"),
      as_member(PruneMetric, "prune_metric", metric, "--metric"),
      encoder_share,
    )

  def __post_init__(self) -> None:
    if not 0 < self.rate < 1:
      raise TaskMoeError(
        f"prune={self.rate} is outside (0, 1): it is the share of experts to"
        " take away. Set --rate."
      )
    share = self.encoder_share
    if share is not None and not 0 < share < 1:
      raise TaskMoeError(
        f"encoder_share={share} is outside (0, 1). Set --encoder_share."
      )
    if self.metric is PruneMetric.USE and self.by not in (
      PruneBy.TASK,
      PruneBy.ALL,
    ):
      raise TaskMoeError(
        f"prune_metric 'use' cannot prune by {str(self.by)!r}: training logs"
        " the load of tasks alone. Set --by to 'task' or 'all', or"
        " --metric to 'importance'."
      )


# Scores of the experts of each block, and the ids of those kept, by stack.
Scores = Mapping[str, Float[np.ndarray, "blocks E"]]
Kept = dict[str, list[Int[np.ndarray, "n"]]]


def prunable_stacks(config: ModelConfig) -> dict[str, StackConfig]:
  """Stacks whose experts a learned gate chooses for each text.

  Raises:
    TaskMoeError: There is none.
  """
  stacks = {"encoder": config.encoder, "decoder": config.decoder}
  found = {
    name: stack
    for name, stack in stacks.items()
    if stack.moe is not None
    and stack.moe.granularity.has_gate
    and not stack.moe.granularity.has_sub_network
  }
  if found:
    return found
  raise TaskMoeError(
    f"nothing can be pruned: {how_routed(config)}. Only experts that a gate"
    " chooses by token or by sentence are; use `taskmoe"
    " export` for exact sub-networks."
  )


def choose_experts(
  scores: Scores, stacks: Mapping[str, StackConfig], pruning: Pruning
) -> Kept:
  """Keeps the best experts of every block, in ascending order.

  No layer keeps fewer than the K that a token chooses.

  Args:
    scores: By stack, higher is better, none below 0. Of ties the expert with
      the lower index is kept.
    stacks: The config of each.
    pruning: How many to keep, and where.

  Raises:
    TaskMoeError: A stack would keep fewer than K experts a layer, or more than
      it has.
  """
  budgets = _budgets(scores, stacks, pruning)
  fewest = {
    name: stack.require_moe().num_selected for name, stack in stacks.items()
  }
  if pruning.layers is PruneLayers.EVEN:
    return {
      name: _best_of_each(found, round(budgets[name] / len(found)))
      for name, found in scores.items()
    }
  if pruning.encoder_share is not None:
    return {
      name: _by_threshold([*found], [fewest[name]] * len(found), budgets[name])
      for name, found in scores.items()
    }
  pooled = [(name, row) for name, found in scores.items() for row in found]
  kept = _by_threshold(
    [row for _, row in pooled],
    [fewest[name] for name, _ in pooled],
    sum(budgets.values()),
  )
  found: Kept = {name: [] for name in scores}
  for (name, _), ids in zip(pooled, kept, strict=True):
    found[name].append(ids)
  return found


def _budgets(
  scores: Scores, stacks: Mapping[str, StackConfig], pruning: Pruning
) -> dict[str, int]:
  """How many experts each stack keeps, in all of its layers."""
  share = pruning.encoder_share
  if share is not None and len(stacks) < 2:
    raise TaskMoeError(
      f"encoder_share={share} shares out the experts of two stacks, and only"
      f" the {next(iter(stacks))} is pruned. Leave --encoder_share out."
    )
  sizes = {name: scores[name].size for name in stacks}
  budgets = {name: round((1 - pruning.rate) * n) for name, n in sizes.items()}
  if share is not None:
    total = sum(budgets.values())
    encoder = round(share * total)
    budgets = {"encoder": encoder, "decoder": total - encoder}
  for name, stack in stacks.items():
    _check_budget(name, stack, budgets[name])
  return budgets


def _check_budget(name: str, stack: StackConfig, budget: int) -> None:
  moe = stack.require_moe()
  fewest, most = moe.num_selected, moe.num_experts
  kept = budget / stack.num_blocks
  if kept < fewest:
    raise TaskMoeError(
      f"the {name} would keep {kept:.1f} of {most} experts a layer, and each"
      f" token chooses {fewest}. Lower --rate, or change --encoder_share."
    )
  if kept > most:
    raise TaskMoeError(
      f"the {name} would keep {kept:.1f} experts a layer and has {most}. Raise"
      " --rate, or change --encoder_share."
    )


def _best_of_each(scores: Float[np.ndarray, "blocks E"], count: int) -> list:
  return [np.sort(_ranked(row)[:count]) for row in scores]


def _ranked(scores: Float[np.ndarray, "E"]) -> Int[np.ndarray, "E"]:
  return np.argsort(-scores, kind="stable")


def _by_threshold(
  layers: list[Float[np.ndarray, "E"]], fewest: list[int], budget: int
) -> list[Int[np.ndarray, "n"]]:
  """Keeps as much of every layer's sum of scores as the budget allows.

  A global threshold, as in the paper: each layer's scores are scaled to sum to
  1, and it keeps its best experts until these make up a threshold, which is the
  same for all layers; `fewest` of them in any case. So a layer that relies on
  few experts keeps few. (The authors' program leaves those `fewest` out of the
  sum, so that such a layer would keep many that are hardly used.)
  """
  candidates, kept = [], []
  for layer, (scores, number) in enumerate(zip(layers, fewest, strict=True)):
    order = _ranked(scores)
    shares = scores[order] / max(scores.sum(), np.finfo(np.float32).tiny)
    better = np.cumsum(shares) - shares
    kept.append(list(order[:number]))
    candidates += [
      (mass, layer, expert)
      for mass, expert in zip(better[number:], order[number:], strict=True)
    ]
  # Stable: of equal masses, the layers' own order decides.
  candidates.sort(key=lambda candidate: candidate[0])
  for _, layer, expert in candidates[: budget - sum(map(len, kept))]:
    kept[layer].append(expert)
  return [np.sort(np.array(ids)) for ids in kept]


# Padding is chosen by no bias either.
_NEVER = -1e9


def prune(
  params: PyTree, config: ModelConfig, kept: Kept
) -> tuple[PyTree, ModelConfig]:
  """Takes away experts, and their columns of the routers.

  A router of the pruned model chooses the K best of the experts that are left;
  the gates of K > 1 sum to 1 as before. Where the chosen ones are all left,
  nothing changes.

  The blocks of a stack are scanned, so all have the same number of experts:
  where they keep different numbers, those with fewer are filled up with zeros,
  which no token chooses.

  Args:
    params: Of the mixture; not changed.
    config: Of the mixture.
    kept: Ids of each block's experts, by stack; other stacks stay as they are.
  """
  params = dict(params)
  for name, blocks in kept.items():
    stack: StackConfig = getattr(config, name)
    place = stack.moe_layer
    weights = dict(params[name])
    layers = dict(weights["blocks"])
    layer = dict(layers[place])
    count = max(map(len, blocks))
    has_padding = any(len(ids) < count for ids in blocks)
    layer["moe"] = _without(layer["moe"], blocks, count, has_padding)
    weights["blocks"] = {**layers, place: layer}
    params[name] = weights
    moe = dataclasses.replace(
      stack.require_moe(), num_experts=count, has_padding=has_padding
    )
    small: dict[str, Any] = {name: dataclasses.replace(stack, moe=moe)}
    config = dataclasses.replace(config, **small)
  return params, config


def _without(
  moe: PyTree, blocks: list[np.ndarray], count: int, has_padding: bool
) -> PyTree:
  chosen = np.stack([np.resize(ids, count) for ids in blocks])
  small = slice_experts(moe, chosen)
  if not has_padding:
    return small
  sizes = np.array([len(ids) for ids in blocks])
  real = jnp.asarray(np.arange(count) < sizes[:, None])
  experts = {
    name: jnp.where(real[:, :, None, None], weights, 0.0)
    for name, weights in small["experts"].items()
  }
  router = dict(small["router"])
  router["table"] = jnp.where(real[:, None], router["table"], 0.0)
  if "balance_bias" in router:
    router["balance_bias"] = jnp.where(real, router["balance_bias"], _NEVER)
  router["is_expert"] = real.astype(jnp.float32)
  return {"experts": experts, "router": router}

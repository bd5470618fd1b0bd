"""What a manifest says of a bundle."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from taskmoe_jax.export.extract import SelectedExperts
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.task_space import TaskSpace


@dataclasses.dataclass(frozen=True)
class About:
  """What a writer may tell the readers of its folder.

  Attributes:
    task: What the bundle translates.
    run: The run directory that it comes from.
    step: The checkpoint.
    parameters: Of the mixture, and of the bundle.
    scores: BLEU by pair, on the test part; empty if it was never evaluated.
  """

  task: str
  run: str
  step: int
  parameters: tuple[int, int]
  scores: Mapping[str, float]


def describe_origin(about: About, served: TaskSpace) -> dict[str, Any]:
  """What a manifest says of where a bundle is from, and what it translates."""
  full, kept = about.parameters
  return {
    "task": about.task,
    "tasks": list(served.tasks),
    "pairs": list(served.pairs),
    "task_by": str(served.task_by),
    "source": {"run": about.run, "step": about.step},
    "parameters": {"mixture": full, "bundle": kept},
  }


def describe_stacks(
  model: ModelConfig,
  small: ModelConfig,
  selected: Mapping[str, SelectedExperts],
) -> dict[str, dict[str, Any]]:
  """Says of each stack which experts it has, or why it is kept whole.

  Args:
    model: Of the mixture.
    small: Of the bundle.
    selected: Of the stacks that were reduced.
  """
  return {
    name: _describe(
      getattr(model, name), getattr(small, name), selected.get(name)
    )
    for name in ("encoder", "decoder")
  }


def _describe(
  stack: StackConfig, small: StackConfig, selected: SelectedExperts | None
) -> dict[str, Any]:
  if stack.moe is None:
    return {"reduced": False, "reason": "it is dense"}
  granularity = stack.moe.granularity
  if selected is None:
    return {
      "reduced": False,
      "reason": f"it is routed by {granularity}: its experts depend on the"
      " text, so all are kept",
    }
  layers = []
  for block, layer in enumerate(selected.layers):
    experts = selected.experts[block].tolist()
    if small.moe is None:
      gates = selected.gates[block].tolist()
      layers.append({"layer": layer, "experts": experts, "gates": gates})
    else:
      # A router, or the table of the bundle's config, decides among these.
      layers.append({"layer": layer, "candidates": experts})
  return {
    "reduced": True,
    "granularity": str(granularity),
    "becomes": "dense" if small.moe is None else str(small.moe.granularity),
    "layers": layers,
  }

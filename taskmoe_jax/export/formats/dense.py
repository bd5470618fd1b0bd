"""Sub-networks as engines of dense models see them: one layer after another."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from jaxtyping import PyTree

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import ModelConfig, StackConfig


def refuse_routing(model: ModelConfig, engine: str, formats: str) -> None:
  """Refuses a model with a stack that has no dense sub-network.

  A stack that is routed by task is no reason: its sub-network is dense.

  Args:
    model: The mixture's config.
    engine: What cannot run it.
    formats: What to leave out of --formats.

  Raises:
    TaskMoeError: Which setting would make it possible.
  """
  for name in ("encoder", "decoder"):
    moe = getattr(model, name).moe
    if moe is not None and not moe.granularity.by_task:
      raise TaskMoeError(
        f"the {name} is routed by {moe.granularity}, so that it stays a mixture"
        f" of experts, which {engine} does not support. Train with"
        f" {name.upper()} set to 'task' or 'static', or leave {formats} out of"
        " --formats."
      )


def refuse_mixtures(model: ModelConfig, engine: str, formats: str) -> None:
  """Refuses what is a mixture still, as a sub-network of several tasks may be.

  Raises:
    TaskMoeError: It is one.
  """
  if model.encoder.moe is not None or model.decoder.moe is not None:
    raise TaskMoeError(
      "the sub-network of several tasks is a mixture of experts still, which"
      f" {engine} does not support. Export its tasks one by one with"
      f" --tasks, or leave {formats} out of --formats."
    )


def layers_in_order(
  blocks: Mapping[str, PyTree], stack: StackConfig
) -> Iterator[Mapping[str, Any]]:
  """Layers in the order in which a text passes them, as NumPy's arrays.

  Args:
    blocks: Parameters of a scanned model, with a leading axis of blocks.
    stack: Their config.
  """
  for block in range(stack.num_blocks):
    for place in range(stack.block_size):
      yield _of_block(blocks[f"layer_{place}"], block)


def _of_block(tree: Any, block: int) -> Any:
  if isinstance(tree, Mapping):
    return {name: _of_block(value, block) for name, value in tree.items()}
  return np.asarray(tree[block])

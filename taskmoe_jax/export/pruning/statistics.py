"""What the gates of a model think of its experts, pair by pair."""

import functools
import json
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jaxtyping import Array, Float, Int, PyTree

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.pruning.choosing import PruneMetric, prunable_stacks
from taskmoe_jax.export.verify import ROWS, Samples, reference_batch
from taskmoe_jax.models.config import StackConfig
from taskmoe_jax.models.transformer import Batch, Transformer
from taskmoe_jax.moe.statistics import GATE_STATISTICS, GateStatistics

OfPair = dict[str, GateStatistics]


def gate_statistics(
  translator: Translator,
  samples: Samples,
  *,
  progress: Callable[[int], None] = lambda number: None,
) -> dict[str, OfPair]:
  """Collects gate statistics from the model's own forward pass.

  Targets are the references: teacher forcing, as the paper does for all of its
  202 languages.

  Args:
    translator: The mixture.
    samples: Sentences with references, by pair.
    progress: Called with the number of sentences that have just been read.

  Returns:
    For each pair, the statistics of each stack that can be pruned.
  """
  model = Transformer(translator.model, len(translator.task_space.tasks))
  stacks = prunable_stacks(translator.model)
  space = translator.task_space
  found = {}
  for pair, rows in samples.items():
    task_id = space.task_id(space.task_of_pair(pair))
    task_ids = jnp.full((ROWS,), task_id, jnp.int32)
    # Those of one length together, so that few shapes are compiled.
    rows = sorted(rows, key=lambda row: max(map(len, row)))
    total: dict[str, GateStatistics] = {}
    for first in range(0, len(rows), ROWS):
      chosen = rows[first : first + ROWS]
      batch = reference_batch(chosen, pair, translator.vocabulary)
      left = _left_by_layers(translator.params, batch, task_ids, model=model)
      sums = {name: _of_stack(left, name, stacks[name]) for name in stacks}
      total = jax.tree.map(np.add, total, sums) if total else sums
      progress(len(chosen))
    found[pair] = total
  return found


@functools.partial(jax.jit, static_argnames="model")
def _left_by_layers(
  params: PyTree, batch: Batch, task_ids: Int[Array, "B"], *, model: Transformer
) -> PyTree:
  _, variables = model.apply(
    {"params": params},
    batch,
    task_ids,
    train=False,
    rows_per_task_group=task_ids.shape[0],
    mutable=[GATE_STATISTICS],
  )
  return variables[GATE_STATISTICS]


def _of_stack(left: PyTree, name: str, stack: StackConfig) -> GateStatistics:
  layer = left[name]["blocks"][stack.moe_layer]
  (statistics,) = layer["moe"]["gates"]
  return jax.tree.map(np.asarray, statistics)


def mean_scores(
  statistics: Sequence[GateStatistics], metric: PruneMetric
) -> Float[np.ndarray, "blocks E"]:
  """Scores of experts: the mean over pairs, each of which counts alike."""
  return np.mean([_scores(of_pair, metric) for of_pair in statistics], axis=0)


def _scores(
  statistics: GateStatistics, metric: PruneMetric
) -> Float[np.ndarray, "blocks E"]:
  match metric:
    case PruneMetric.IMPORTANCE:
      activity = np.asarray(statistics.activity)
      return activity * np.exp(np.asarray(statistics.confidence))
    case PruneMetric.ACTIVITY:
      return np.asarray(statistics.activity)
    case PruneMetric.CONFIDENCE:
      return np.asarray(statistics.confidence)
    case _:
      raise AssertionError(metric)


def use_in_training(
  run_dir: epath.PathLike,
  stacks: Mapping[str, StackConfig],
  tasks: Sequence[str],
  step: int,
) -> dict[str, Float[np.ndarray, "blocks E"]]:
  """Mean load of experts, over tasks and the second half of a training.

  The first half is left out, in which routers still change their minds.

  Args:
    run_dir: The run, whose `metrics.jsonl` is read.
    stacks: Config of those to be pruned.
    tasks: Whose load counts, each alike.
    step: Of the checkpoint.

  Raises:
    TaskMoeError: The log has no load of these tasks.
  """
  path = epath.Path(run_dir) / "metrics.jsonl"
  lines = path.read_text().splitlines() if path.exists() else []
  rows = [
    row for row in map(json.loads, lines) if step / 2 <= row["step"] <= step
  ]
  found = {}
  for name, stack in stacks.items():
    found[name] = np.stack(
      [
        _mean_load(rows, f"routing/{name}/layer_{layer}", tasks, path)
        for layer in stack.moe_layers
      ]
    )
  return found


def _mean_load(
  rows: Sequence[Mapping],
  layer: str,
  tasks: Sequence[str],
  path: epath.Path,
) -> Float[np.ndarray, "E"]:
  means = []
  for task in tasks:
    name = f"{layer}/task/{task}/load"
    loads = [row[name] for row in rows if name in row]
    if not loads:
      raise TaskMoeError(
        f"{str(path)!r} does not say {name}: how much task {task} used each"
        " expert in training. Set --metric to 'importance', which reads a"
        " development set."
      )
    means.append(np.mean(loads, axis=0))
  return np.mean(means, axis=0)

"""The loss on sentences that training has not seen."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.losses import correct, cross_entropy
from taskmoe_jax.models.transformer import Batch
from taskmoe_jax.partitioning.rules import activate
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.train.program import Program
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, right_shift

Rows = list[tuple[str, list[int], list[int]]]


class ValidationLoss:
  """Cross-entropy of given translations, with given parameters.

  Each row has one sentence, and is grouped with rows of its task, as in
  training. There is no dropout, and no token is dropped for lack of capacity.
  Examples that do not fit into a row are left out.
  """

  def __init__(
    self,
    examples: Mapping[str, Sequence[tuple[str, str]]],
    *,
    run: Run,
    program: Program,
    batch_size: int,
    source_length: int,
    target_length: int,
  ):
    """Tokenizes the examples of every pair and puts them in batches.

    Raises:
      TaskMoeError: None of them fits into a row.
    """
    self._task_space = run.task_space
    self._program = program
    group = program.step.rows_per_task_group
    unit = math.lcm(group, program.partitioning.num_row_shards)
    self._batch_size = -(-batch_size // unit) * unit
    self._lengths = source_length, target_length
    rows = [row for row in _tokenized(examples, run) if self._fits(row)]
    if not rows:
      raise TaskMoeError(
        "no validation example fits into a row of SOURCE_LENGTH="
        f"{source_length} and TARGET_LENGTH={target_length} tokens. Set them,"
        " or EVALUATE_EVERY to None."
      )
    self._batches = self._in_batches(_by_task(rows, run, group))
    self._sums = jax.jit(
      self._sums_of, out_shardings=program.partitioning.replicated
    )

  def __call__(self, params: PyTree) -> dict[str, float]:
    """Returns `loss` and `accuracy`, overall and of each pair and direction.

    `loss/pair/de-en` is a mean over the pair's target tokens. `loss`, and
    `loss/xx-en` and `loss/en-xx` where there are such pairs, are means over
    pairs, each of which counts the same, as in the paper's tables.
    """
    spread = self._program.partitioning.spread_rows
    totals = np.zeros((3, len(self._task_space.pairs)))
    with activate(self._program.partitioning):
      for batch in self._batches:
        arrays = {name: spread(rows) for name, rows in batch.items()}
        totals += jax.device_get(self._sums(params, arrays))
    losses, right, tokens = totals
    seen = tokens > 0
    report: dict[str, float] = {}
    for name, sums in (("loss", losses), ("accuracy", right)):
      means = sums[seen] / tokens[seen]
      pairs = np.array(self._task_space.pairs)[seen]
      report |= _averages(name, dict(zip(pairs.tolist(), means, strict=True)))
    return report

  def _sums_of(self, params: PyTree, batch: Batch) -> jax.Array:
    """Loss, correct predictions and target tokens of each pair."""
    space, step = self._task_space, self._program.step
    languages = batch["source_language"], batch["target_language"]
    logits, _ = step.model.apply(
      {"params": params},
      batch,
      jnp.asarray(space.task_table)[languages],
      train=False,
      rows_per_task_group=step.rows_per_task_group,
    )
    weights, targets = (
      batch["decoder_loss_weights"],
      batch["decoder_target_tokens"],
    )
    losses, _ = cross_entropy(logits, targets, label_smoothing=0.0)
    by_row = weights * losses, weights * correct(logits, targets), weights
    pair_ids = jnp.asarray(space.pair_table)[languages]
    return jnp.stack(
      [
        jax.ops.segment_sum(rows.sum(1), pair_ids, len(space.pairs))
        for rows in by_row
      ]
    )

  def _fits(self, row: tuple[str, list[int], list[int]]) -> bool:
    _, source, target = row
    return len(source) <= self._lengths[0] and len(target) <= self._lengths[1]

  def _in_batches(self, rows: Rows) -> list[dict[str, np.ndarray]]:
    """Full batches: the last one is filled up with empty rows."""
    missing = -len(rows) % self._batch_size
    rows = rows + [(rows[-1][0], [], [])] * missing
    return [
      self._batch(rows[first : first + self._batch_size])
      for first in range(0, len(rows), self._batch_size)
    ]

  def _batch(self, rows: Rows) -> dict[str, np.ndarray]:
    languages = np.array(
      [
        [self._task_space.language_id(name) for name in split_pair(pair)]
        for pair, _, _ in rows
      ],
      np.int32,
    )
    source_length, target_length = self._lengths
    targets = _padded([target for _, _, target in rows], target_length)
    return {
      "encoder_input_tokens": _padded(
        [source for _, source, _ in rows], source_length
      ),
      "decoder_input_tokens": right_shift(targets),
      "decoder_target_tokens": targets,
      "decoder_loss_weights": (targets != PAD_ID).astype(np.float32),
      "source_language": languages[:, 0],
      "target_language": languages[:, 1],
    }


def _tokenized(examples: Mapping[str, Any], run: Run) -> Rows:
  rows = []
  for pair, texts in examples.items():
    symbol = run.vocabulary.target_id(split_pair(pair)[1])
    sources, targets = map(run.vocabulary.encode, zip(*texts, strict=True))
    rows += [
      (pair, [symbol, *source, EOS_ID], [*target, EOS_ID])
      for source, target in zip(sources, targets, strict=True)
    ]
  return rows


def _by_task(rows: Rows, run: Run, group: int) -> Rows:
  """Rows in groups of one task each, filled up with empty rows."""
  by_task: dict[str, Rows] = {}
  for row in rows:
    by_task.setdefault(run.task_space.task_of_pair(row[0]), []).append(row)
  return [
    row
    for members in by_task.values()
    for row in members + [(members[-1][0], [], [])] * (-len(members) % group)
  ]


def _padded(sequences: list[list[int]], length: int) -> np.ndarray:
  array = np.full((len(sequences), length), PAD_ID, np.int32)
  for row, ids in enumerate(sequences):
    array[row, : len(ids)] = ids
  return array


def _averages(name: str, by_pair: Mapping[str, float]) -> dict[str, float]:
  groups: dict[str, list[float]] = {name: []}
  report = {}
  for pair, value in by_pair.items():
    source, target = split_pair(pair)
    report[f"{name}/pair/{pair}"] = float(value)
    groups[name].append(value)
    if target == "en":
      groups.setdefault(f"{name}/xx-en", []).append(value)
    elif source == "en":
      groups.setdefault(f"{name}/en-xx", []).append(value)
  return report | {key: float(np.mean(x)) for key, x in groups.items()}

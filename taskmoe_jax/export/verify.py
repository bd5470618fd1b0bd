"""Checks on real sentences that a sub-network is its mixture."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from taskmoe_jax.decoding.batches import padded
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import ComputeDtype
from taskmoe_jax.models.transformer import Batch, Transformer
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, Vocabulary, right_shift

# Largest difference of two logits that is rounding, in float32.
TOLERANCE = 1e-4
ROWS = 16

Samples = Mapping[str, Sequence[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class Check:
  """How a sub-network compared to its mixture.

  Attributes:
    sentences: How many were compared.
    max_logit_difference: Largest difference of two logits of reference tokens.
    identical_translations: How many translations were the same.
  """

  sentences: int
  max_logit_difference: float
  identical_translations: int


def verify(mixture: Translator, small: Translator, samples: Samples) -> Check:
  """Compares logits on references, and greedy translations, in float32.

  Args:
    mixture: The whole model.
    small: The sub-network.
    samples: Sentences with references, for pairs of the task.

  Raises:
    TaskMoeError: They differ by more than rounding can explain.
  """
  mixture, small = in_float32(mixture), in_float32(small)
  differences, same, sentences = [], 0, 0
  with jax.default_matmul_precision("highest"):
    for pair, rows in samples.items():
      differences.append(logit_difference(mixture, small, pair, rows))
      sources = [source for source, _ in rows]
      ours, theirs = (
        model.translate(sources, pair, batch_size=ROWS)
        for model in (mixture, small)
      )
      same += sum(a == b for a, b in zip(ours, theirs, strict=True))
      sentences += len(rows)
  # Unlike Python's max, NumPy's does not lose what is no number.
  difference = float(np.max(differences))
  if not difference <= TOLERANCE or same < sentences:
    raise TaskMoeError(
      f"the sub-network for {', '.join(samples)} is not its mixture: logits"
      f" differ by up to {difference:.1e} (at most {TOLERANCE:.0e} is"
      f" rounding), and {sentences - same} of {sentences} translations differ."
      " Nothing was written."
    )
  return Check(sentences, difference, same)


def logit_difference(
  mixture: Translator,
  small: Translator,
  pair: str,
  rows: Sequence[tuple[str, str]],
) -> float:
  """Largest difference of the logits that the two give reference tokens."""
  ours, theirs = (
    logits_of_references(model, pair, rows) for model in (mixture, small)
  )
  return float(np.abs(ours - theirs).max())


def logits_of_references(
  translator: Translator, pair: str, rows: Sequence[tuple[str, str]]
) -> Float[np.ndarray, "tokens V"]:
  """The logits that a model gives all tokens of the references, in order."""
  found = []
  for first in range(0, len(rows), ROWS):
    batch = reference_batch(
      rows[first : first + ROWS], pair, translator.vocabulary
    )
    logits = _logits_of(translator, pair, batch)
    found.append(logits[batch["decoder_loss_weights"] > 0])
  return np.concatenate(found)


def in_float32(translator: Translator) -> Translator:
  """The same, computing in float32."""
  return Translator(
    dataclasses.replace(translator.model, dtype=ComputeDtype.FLOAT32),
    translator.params,
    translator.task_space,
    translator.vocabulary,
  )


def _logits_of(
  translator: Translator, pair: str, batch: dict[str, np.ndarray]
) -> Float[np.ndarray, "B T V"]:
  space = translator.task_space
  task_id = space.task_id(space.task_of_pair(pair))
  return np.asarray(
    _logits(
      translator.params,
      batch,
      jnp.full((ROWS,), task_id, jnp.int32),
      model=Transformer(translator.model, len(space.tasks)),
    )
  )


@functools.partial(jax.jit, static_argnames="model")
def _logits(
  params: PyTree, batch: Batch, task_ids: Int[Array, "B"], *, model: Transformer
) -> Float[Array, "B T V"]:
  logits, _ = model.apply(
    {"params": params},
    batch,
    task_ids,
    train=False,
    rows_per_task_group=task_ids.shape[0],
  )
  return logits


def reference_batch(
  rows: Sequence[tuple[str, str]], pair: str, vocabulary: Vocabulary
) -> dict[str, np.ndarray]:
  """Arrays of at most `ROWS` sentences, filled up with padding."""
  symbol = vocabulary.target_id(split_pair(pair)[1])
  sources, targets = (
    vocabulary.encode(side) for side in zip(*rows, strict=True)
  )
  sources = padded([[symbol, *ids, EOS_ID] for ids in sources], ROWS)
  targets = padded([[*ids, EOS_ID] for ids in targets], ROWS)
  return {
    "encoder_input_tokens": sources,
    "decoder_input_tokens": right_shift(targets),
    "decoder_loss_weights": (targets != PAD_ID).astype(np.float32),
  }

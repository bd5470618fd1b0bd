"""Proves that a bundle with fewer pieces is the bundle it was."""

import dataclasses

import jax
import numpy as np
from flax import traverse_util
from jaxtyping import Int

from taskmoe_jax.bundles.quantization import VOCABULARIES
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.verify import Samples, in_float32

_ROWS = 16
# Of two log-probabilities of a sentence, in float32.
_ROUNDING = 1e-3


@dataclasses.dataclass(frozen=True)
class TrimmingCheck:
  """How a bundle with fewer pieces compares to what it was.

  Attributes:
    sentences: How many were compared.
    nats_per_token: By how much a token of the references has become more
      likely, because pieces that are gone have no probability any more.
    identical_translations: How many greedy translations were the same; all in
      which no dropped piece stood are.
  """

  sentences: int
  nats_per_token: float
  identical_translations: int


def check_trimmed(
  whole: Translator,
  small: Translator,
  kept: Int[np.ndarray, "kept"],
  samples: Samples,
) -> TrimmingCheck:
  """Compares parameters bit for bit, and scores and translations.

  Args:
    whole: With all pieces.
    small: With those that are kept.
    kept: Their ids in the whole vocabulary.
    samples: Sentences with references; their pieces must be kept.

  Raises:
    TaskMoeError: A number is another, a reference has become less likely, or a
      translation without dropped pieces is another.
  """
  _check_rows(whole, small, kept)
  whole, small = in_float32(whole), in_float32(small)
  nats, tokens, same, sentences = 0.0, 0, 0, 0
  with jax.default_matmul_precision("highest"):
    for pair, rows in samples.items():
      sources, targets = ([row[side] for row in rows] for side in (0, 1))
      more = [
        b.total - a.total
        for a, b in zip(
          *(m.score(sources, targets, pair) for m in (whole, small)),
          strict=True,
        )
      ]
      ours, theirs = (
        model.decode(sources, pair, batch_size=_ROWS)
        for model in (whole, small)
      )
      if not min(more) >= -_ROUNDING:
        raise TaskMoeError(
          f"with fewer pieces a reference of {pair} is less likely than before,"
          f" by {-min(more):.1e}. Nothing was written. Leave out"
          " --trim_vocabulary."
        )
      for source, old, new in zip(
        sources, ours.token_ids, theirs.token_ids, strict=True
      ):
        if np.isin(old, kept).all() and old != kept[new].tolist():
          raise TaskMoeError(
            f"with fewer pieces {source!r} is translated differently, though"
            " its translation has none that were dropped. Nothing was written."
            " Leave out --trim_vocabulary."
          )
      nats += float(np.sum(more))
      tokens += sum(len(ids) + 1 for ids in whole.vocabulary.encode(targets))
      same += sum(a == b for a, b in zip(ours.texts, theirs.texts, strict=True))
      sentences += len(rows)
  return TrimmingCheck(sentences, nats / tokens, same)


def _check_rows(
  whole: Translator, small: Translator, kept: Int[np.ndarray, "kept"]
) -> None:
  """Bit for bit: the kept rows of the tables, and all else."""
  old, new = (
    traverse_util.flatten_dict(model.params, sep="/")
    for model in (whole, small)
  )
  for name, value in old.items():
    expected = np.asarray(value)
    if name in VOCABULARIES:
      expected = expected[kept]
    if not np.array_equal(expected, np.asarray(new[name])):
      raise TaskMoeError(
        f"the trimmed bundle's {name} is not that of the whole one. Nothing was"
        " written. Leave out --trim_vocabulary."
      )

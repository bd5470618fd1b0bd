"""A corpus: what training and evaluation read, wherever it comes from.

A corpus has pairs; a pair has parts (`train`, `validation`, `test`) and a rate
in training. Raw text is read by index. So are the token ids of the train part,
whose lengths can be read without the tokens: that is enough to plan which
examples share a row, so every host plans the whole batch and makes only its own
rows of it (`batches.py`).

There are two corpora: `live.LiveCorpus` reads the text of a seqio mixture and
tokenises it, `cache.CachedCorpus` reads what `taskmoe cache` wrote, and needs
neither seqio nor TensorFlow. This module needs neither.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int

from taskmoe_jax.data.batches.packing import Ragged
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.task_space import TaskBy, TaskSpace
from taskmoe_jax.vocabulary import Vocabulary

PARTS = ("train", "validation", "test")


@runtime_checkable
class Text(Protocol):
  """Sentences in two languages by index; endless unless it has a length."""

  def __getitem__(self, index: int) -> tuple[str, str]: ...


class TrainExamples(abc.ABC):
  """The train part of one pair, as token ids by index.

  Attributes:
    size: Number of examples, or None if they are endless.
    blocks_ahead: How many blocks (`rows.py`) to plan at once: many where
      lengths are free, few where each has to be tokenised.
  """

  size: int | None
  blocks_ahead: int

  @abc.abstractmethod
  def sizes(
    self, indices: Int[np.ndarray, "examples"]
  ) -> Int[np.ndarray, "examples 2"]:
    """Number of tokens of source and target, without symbol and end."""

  @abc.abstractmethod
  def tokens(
    self, indices: Int[np.ndarray, "examples"]
  ) -> tuple[Ragged, Ragged]:
    """Token ids of sources and targets, without symbol and end."""


class Mixture(abc.ABC):  # noqa: B024 - a common name, not an interface
  """What `MIXTURE` may be in gin: a `Corpus`, or a mixture of seqio.

  seqio's class is registered as one in `sources.py`, where it is known.
  """


class Corpus(Mixture):
  """The pairs of a mixture, their rates and their text.

  Attributes:
    name: The mixture's name.
    origin: Where it is read from, for the log.
    pairs: All pairs in the mixture's order, also those only evaluated.
    vocabulary: The vocabulary it was tokenised with, or None if it is text.
  """

  name: str
  origin: str
  pairs: tuple[str, ...]
  vocabulary: Vocabulary | None

  @property
  @abc.abstractmethod
  def rates(self) -> Mapping[str, float]:
    """Each pair's share of the training examples; they sum to 1.

    A pair without a train part (zero-shot) has none.
    """

  @abc.abstractmethod
  def parts(self, pair: str) -> tuple[str, ...]:
    """The parts that a pair has."""

  @abc.abstractmethod
  def size(self, pair: str, part: str) -> int | None:
    """Number of examples, or None if they are endless."""

  @abc.abstractmethod
  def text(self, pair: str, part: str) -> Text:
    """Returns the text whose i-th item is `(source, target)`."""

  def columns(self, pair: str, part: str) -> tuple[Text, bool]:
    """Returns the text with its columns in order, and if the source is second.

    Both directions of a pair may have the same text.
    """
    return self.text(pair, part), False

  @abc.abstractmethod
  def train_examples(self, pair: str, vocabulary: Vocabulary) -> TrainExamples:
    """Returns the token ids of a pair's train part.

    Raises:
      TaskMoeError: It has been tokenised with another vocabulary.
    """


def task_space_of(corpus: Corpus, task_by: TaskBy | str) -> TaskSpace:
  """Returns the task space of all pairs of a corpus.

  Raises:
    TaskMoeError: It is routed by pair, and a pair is not trained (zero-shot):
      the paper leaves open what such a pair's task would be.
  """
  space = TaskSpace.from_pairs(corpus.pairs, task_by)
  if space.task_by is TaskBy.PAIR:
    unseen = [p for p in space.pairs if "train" not in corpus.parts(p)]
    if unseen:
      raise TaskMoeError(
        f"{', '.join(unseen)} of mixture {corpus.name!r} have no train part,"
        " and so no task where one is routed by pair. Set TASK_BY to 'target'"
        " or 'source', or MIXTURE to one without them."
      )
  return space


def examples(
  corpus: Corpus, *, part: str, pair: str, limit: int | None
) -> list[tuple[str, str]]:
  """Returns the first raw sources and references of a pair's part.

  They are unchanged, because BLEU is defined on the reference as it was
  written, and the first, not random, so that everyone scores the same.

  Args:
    corpus: The corpus that has the pair.
    part: One of `PARTS`.
    pair: Such as `de-en`.
    limit: How many at most; None for all of a text that is not endless.
  """
  if pair not in corpus.pairs:
    raise TaskMoeError(one_of("pair", pair, corpus.pairs) + ". Set --pairs.")
  if part not in PARTS:
    raise TaskMoeError(one_of("part", part, PARTS) + ". Set --part.")
  if limit is not None and limit < 1:
    raise TaskMoeError(
      f"{limit} examples are too few: at least 1. Set --examples."
    )
  size = corpus.size(pair, part)
  if size is None and limit is None:
    raise TaskMoeError(
      f"the {part} part of {pair} is endless: say how many examples to take."
      " Set --examples."
    )
  if size == 0:
    raise TaskMoeError(
      f"the {part} part of {pair} in mixture {corpus.name!r} is empty."
    )
  bounds = [bound for bound in (size, limit) if bound is not None]
  text = corpus.text(pair, part)
  return [text[index] for index in range(min(bounds))]


def samples(corpus: Corpus, limit: int) -> dict[str, list[tuple[str, str]]]:
  """Returns the first sentences of every pair, unseen in training if it can be.

  An export is exact on any sentence, so a pair of a folder that has only its
  train part can be exported like the others.
  """
  return {
    pair: examples(
      corpus, part=_sampled_part(corpus, pair), pair=pair, limit=limit
    )
    for pair in corpus.pairs
  }


def _sampled_part(corpus: Corpus, pair: str) -> str:
  for part in ("validation", "test", "train"):
    if part in corpus.parts(pair) and corpus.size(pair, part) != 0:
      return part
  return "validation"


def read(text: Text, indices: Sequence[int]) -> list[tuple[str, str]]:
  """Reads many examples, at once where the text can."""
  if hasattr(text, "read"):
    return text.read(indices)
  return [text[index] for index in indices]

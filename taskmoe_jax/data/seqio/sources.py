"""Parallel text as a seqio source, and what a mixture of such sources holds.

seqio defines the tasks, their sources and their rates. Text also has random
access here, which lets training compute its order instead of remembering it
(`order.py`), and lets evaluation read raw sentences.
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import cast

import numpy as np
import seqio
import tensorflow as tf

from taskmoe_jax.data.corpus import Mixture, Text
from taskmoe_jax.errors import TaskMoeError, one_of

# So that other rooms can take a seqio mixture without importing seqio
# (`corpus.py`).
Mixture.register(seqio.Mixture)


class _Swapped:
  """A text with its columns exchanged."""

  def __init__(self, text: Text):
    self._text = text
    self.report = getattr(text, "report", {})

  def __getitem__(self, index: int) -> tuple[str, str]:
    first, second = self._text[index]
    return second, first

  def read(self, indices: Sequence[int]) -> list[tuple[str, str]]:
    read = getattr(self._text, "read", None)
    lines = read(indices) if read else [self._text[i] for i in indices]
    return [(second, first) for first, second in lines]


class _SizedSwapped(_Swapped):
  """A finite text with its columns exchanged."""

  def __len__(self) -> int:
    return len(cast(Sized, self._text))


def swap(text: Text) -> Text:
  """Returns a text with its columns exchanged."""
  kind = _SizedSwapped if isinstance(text, Sized) else _Swapped
  return kind(text)


class ParallelSource(seqio.DataSource):
  """One direction of a parallel text, read by index or as a seqio source."""

  def __init__(
    self,
    source_language: str,
    target_language: str,
    texts: Mapping[str, Callable[[], Text]],
    *,
    swapped: bool = False,
  ):
    """Makes the source; no text is opened before it is asked for.

    Args:
      source_language: The language to translate from.
      target_language: The language to translate into.
      texts: Opens the text of each existing part. Both directions of a pair
        share it, so it should open a file only once.
      swapped: Whether the text has the target language first.
    """
    super().__init__(splits=tuple(texts), performs_internal_shuffling=True)
    self.source_language = source_language
    self.target_language = target_language
    self._texts = dict(texts)
    self._swapped = swapped

  @property
  def pair(self) -> str:
    return f"{self.source_language}-{self.target_language}"

  def text(self, part: str) -> Text:
    """Returns the text whose i-th item is `(source, target)`."""
    text = self._open(part)
    return swap(text) if self._swapped else text

  def columns(self, part: str) -> tuple[Text, bool]:
    """Returns the text unswapped, and whether its source is second."""
    return self._open(part), self._swapped

  def size(self, part: str) -> int | None:
    """Number of examples, or None if the text is endless."""
    text = self._open(part)
    return len(text) if isinstance(text, Sized) else None

  @property
  def cleaning_counts(self) -> dict[str, int] | None:
    """Lines of the train part by what cleaning did, or None if it did nothing.

    The keys are `lines`, `kept` and `cleaning.REASONS`.
    """
    if "train" not in self._texts:
      return None
    return getattr(self._open("train"), "report", {}).get("cleaning")

  def _open(self, part: str) -> Text:
    if part not in self._texts:
      raise TaskMoeError(
        one_of(f"part of {self.pair}", part, self._texts)
        + ". Set --part, or add the files."
      )
    return self._texts[part]()

  # What seqio asks of a source.

  @property
  def supports_arbitrary_sharding(self) -> bool:
    return True

  def list_shards(self, split: str) -> list[str]:
    return [split]

  def num_input_examples(self, split: str) -> int | None:
    return self.size(split)

  def get_dataset(
    self,
    split: str = "train",
    shuffle: bool = True,
    seed: int | None = None,
    shard_info: seqio.ShardInfo | None = None,
    **unused,
  ) -> tf.data.Dataset:
    """Yields `inputs` and `targets`; endless text gives an endless dataset.

    Endless text is already random and is not shuffled again.
    """
    text, size = self.text(split), self.size(split)
    if size is None:
      order: Iterable[int] = range(sys.maxsize)
    elif shuffle:
      order = np.random.default_rng(seed).permutation(size)
    else:
      order = range(size)
    shard = shard_info or seqio.ShardInfo(index=0, num_shards=1)

    def generate():
      for index in itertools.islice(order, shard.index, None, shard.num_shards):
        source, target = text[int(index)]
        yield {"inputs": source, "targets": target}

    string = tf.TensorSpec((), tf.string)
    return tf.data.Dataset.from_generator(
      generate, output_signature={"inputs": string, "targets": string}
    )


def parallel_sources(mixture: seqio.Mixture) -> dict[str, ParallelSource]:
  """Returns the source of each pair of a mixture, in the mixture's order.

  Raises:
    TaskMoeError: A seqio task reads something other than parallel text, or
      two of them are of one pair.
  """
  return {pair: task.source for pair, task in _tasks(mixture).items()}


def rates(mixture: seqio.Mixture) -> dict[str, float]:
  """Returns each pair's share of the training examples; they sum to 1.

  A pair without a train part (zero-shot: it is only evaluated) has no share.
  """
  rate = {}
  for pair, task in _tasks(mixture).items():
    if "train" not in task.splits:
      continue
    if task.source.size("train") == 0:
      raise TaskMoeError(
        f"the train part of {pair} in mixture {mixture.name!r} is empty: give"
        " it text, or remove it."
      )
    rate[pair] = mixture.get_rate(task)
    if not rate[pair] > 0:
      raise TaskMoeError(
        f"seqio task {task.name!r} has rate {rate[pair]} in mixture"
        f" {mixture.name!r}: a rate is above 0. Set it where the mixture is"
        " defined."
      )
  if not rate:
    raise TaskMoeError(f"no pair of mixture {mixture.name!r} has a train part.")
  total = sum(rate.values())
  return {pair: value / total for pair, value in rate.items()}


def _tasks(mixture: seqio.Mixture) -> dict[str, seqio.Task]:
  tasks: dict[str, seqio.Task] = {}
  for task in mixture.tasks:
    if not isinstance(task.source, ParallelSource):
      raise TaskMoeError(
        f"seqio task {task.name!r} of mixture {mixture.name!r} reads from a"
        f" {type(task.source).__name__}, which does not say of which pair it"
        " is. Include mixtures/registered.gin and set registered.pairs."
      )
    if task.source.pair in tasks:
      raise TaskMoeError(
        f"seqio tasks {tasks[task.source.pair].name!r} and {task.name!r} of"
        f" mixture {mixture.name!r} are both {task.source.pair}: put a pair's"
        " text into one seqio task."
      )
    tasks[task.source.pair] = task
  return tasks

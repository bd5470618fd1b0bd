"""Parallel texts as seqio tasks and a mixture of them."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from taskmoe_jax.data.corpus import Text
from taskmoe_jax.data.seqio.sources import ParallelSource
from taskmoe_jax.data.text.cleaning import Cleaning, clean
from taskmoe_jax.data.text.text_store import TextStore
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.vocabulary import Vocabulary


def register_mixture(
  name: str,
  sources: Sequence[ParallelSource],
  *,
  vocabulary: str | None,
  temperature: float,
  task_prefix: str,
) -> seqio.Mixture:
  """Registers a seqio task per source and the mixture of them all.

  A pair of n training examples gets a share of `n^(1/T)`, T being the
  temperature (5 in the paper): rare pairs are seen more often than they occur.
  Endless text has no n, and its pairs get equal shares. Earlier registrations
  under the same names are replaced.

  Args:
    name: Name of the mixture.
    sources: One source per direction.
    vocabulary: Path of the SentencePiece model. It is opened at the first
      example, because a vocabulary is trained from the mixture itself. Without
      one the seqio tasks give text, not tokens.
    temperature: T; 1 keeps the corpus's proportions.
    task_prefix: A seqio task is called `{task_prefix}_{source}_{target}`.
  """
  if not temperature > 0:
    raise TaskMoeError(
      f"temperature {temperature} is not above 0: 1 keeps the proportions of"
      " the corpus, a higher one evens them out. Set TEMPERATURE."
    )
  names = []
  for source in sources:
    task = f"{task_prefix}_{source.source_language}_{source.target_language}"
    names.append(task)
    add_task(task, source, vocabulary)
  if name in seqio.MixtureRegistry.names():
    seqio.MixtureRegistry.remove(name)
  rate = functools.partial(_rate, temperature=temperature)
  return seqio.MixtureRegistry.add(name, names, default_rate=rate)


def add_task(
  name: str, source: ParallelSource, vocabulary: str | None
) -> seqio.Task:
  """Registers the seqio task of a source, in place of an earlier one."""
  if name in seqio.TaskRegistry.names():
    seqio.TaskRegistry.remove(name)
  return seqio.TaskRegistry.add(
    name,
    source=source,
    shuffle_buffer_size=None,
    **_tokens_or_text(vocabulary, source.target_language),
  )


def both_directions(
  languages: tuple[str, str],
  texts: Mapping[str, Callable[[], TextStore]],
  *,
  cleaning: Cleaning | None = None,
) -> list[ParallelSource]:
  """Returns the two sources of a text, which they share.

  Args:
    languages: Languages of the first and second side.
    texts: Opens the text of each existing part.
    cleaning: What to remove from the train part; None for nothing.
  """
  opened = cleaned_texts(languages, texts, cleaning)
  first, second = languages
  return [
    ParallelSource(first, second, opened),
    ParallelSource(second, first, opened, swapped=True),
  ]


def cleaned_texts(
  languages: tuple[str, str],
  texts: Mapping[str, Callable[[], TextStore]],
  cleaning: Cleaning | None,
) -> dict[str, Callable[[], Text]]:
  """Returns functions that open each part, once; the train part is cleaned."""
  opened: dict[str, Callable[[], Text]] = {
    part: functools.cache(open_) for part, open_ in texts.items()
  }
  if cleaning and "train" in texts:
    open_uncleaned = texts["train"]
    opened["train"] = functools.cache(
      lambda: clean(open_uncleaned(), cleaning, languages)
    )
  return opened


def _tokens_or_text(
  vocabulary: str | None, target_language: str
) -> dict[str, Any]:
  """Preprocessors and features of a seqio task."""
  if vocabulary is None:
    feature = seqio.Feature(
      seqio.PassThroughVocabulary(size=0), dtype=tf.string, rank=0
    )
    preprocessors = []
  else:
    feature = seqio.Feature(seqio.SentencePieceVocabulary(vocabulary))
    preprocessors = [
      functools.partial(seqio.preprocessors.tokenize, copy_pretokenized=False),
      functools.partial(
        _prepend_target_symbol, target_language=target_language
      ),
      seqio.preprocessors.append_eos,
    ]
  return {
    "preprocessors": preprocessors,
    "output_features": {"inputs": feature, "targets": feature},
  }


def _rate(task: seqio.Task, temperature: float) -> float:
  if "train" not in task.splits:
    return 1.0  # only evaluated, and so in no mixture of train parts
  size = task.source.size("train")
  return 1.0 if size is None else size ** (1 / temperature)


def _prepend_target_symbol(
  dataset: tf.data.Dataset,
  output_features: dict[str, seqio.Feature],
  target_language: str,
) -> tf.data.Dataset:
  path = output_features["inputs"].vocabulary.sentencepiece_model_file
  symbol = [Vocabulary.load(path).target_id(target_language)]
  return dataset.map(
    lambda example: {
      **example,
      "inputs": tf.concat([symbol, example["inputs"]], axis=0),
    },
    num_parallel_calls=tf.data.AUTOTUNE,
  )

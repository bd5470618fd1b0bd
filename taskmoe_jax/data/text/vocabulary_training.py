"""Trains the joint SentencePiece vocabulary on a mixture's own text."""

import dataclasses
import io
import logging
import re
from collections.abc import Iterator

import numpy as np
import sentencepiece
from etils import epath

from taskmoe_jax.data.corpus import Corpus, Mixture
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import (
  EOS_ID,
  PAD_ID,
  UNK_ID,
  Vocabulary,
  target_symbol,
)

# Fixed, not the number of cores, because the model depends on it.
_NUM_THREADS = 4
# The number of examples of an endless text to sample from.
_ENDLESS = 2**31

_logger = logging.getLogger(__name__)


def train_vocabulary(
  corpus: Corpus, *, size: int, num_sentences: int, seed: int
) -> bytes:
  """Returns a SentencePiece model of text sampled at the mixture's rates.

  As in the paper one vocabulary serves all languages and both sides. It has a
  symbol `<2xx>` for every target language; digits stand alone; characters that
  are rare in the sample become bytes. Text is not normalised, so that decoding
  gives back every character that was encoded (but for U+2581, which is how
  SentencePiece writes a space). The same arguments give the same bytes.

  Args:
    corpus: Its train parts are sampled. A pair that has fewer sentences than
      its share gives each of them once.
    size: Number of pieces, with the special ones.
    num_sentences: How many to sample, sources and targets together.
    seed: Seed of the sample.
  """
  if num_sentences < 2:
    raise TaskMoeError(
      f"{num_sentences} sentences are too few for a vocabulary: it needs at"
      " least an example's two. Set VOCAB_SENTENCES."
    )
  targets = dict.fromkeys(split_pair(pair)[1] for pair in corpus.pairs)
  _logger.info(
    "training a vocabulary of %d pieces on %d sentences of %d pairs",
    size,
    num_sentences,
    len(corpus.pairs),
  )
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_sample(corpus, num_sentences, seed),
      model_writer=model,
      model_type="unigram",
      vocab_size=size,
      user_defined_symbols=[target_symbol(language) for language in targets],
      pad_id=PAD_ID,
      eos_id=EOS_ID,
      unk_id=UNK_ID,
      bos_id=-1,
      byte_fallback=True,
      split_digits=True,
      normalization_rule_name="identity",
      remove_extra_whitespaces=False,
      num_threads=_NUM_THREADS,
      minloglevel=2,
    )
  except RuntimeError as error:
    raise _size_error(size, str(error)) from None
  return model.getvalue()


def _sample(corpus: Corpus, num_sentences: int, seed: int) -> Iterator[str]:
  """Yields sources and targets, each pair's by its rate."""
  for number, (pair, rate) in enumerate(corpus.rates.items()):
    text, size = corpus.text(pair, "train"), corpus.size(pair, "train")
    source, target = split_pair(pair)
    # Language-modelling text has no sources.
    sides = 1 if source == target else 2
    count = max(1, round(rate * num_sentences / sides))
    # Both directions share their text, but should not share their sample.
    generator = np.random.default_rng([seed, number])
    if size is None:
      indices = generator.integers(_ENDLESS, size=count)
    else:
      indices = generator.permutation(size)[:count]
    for index in indices:
      yield from text[int(index)][-sides:]


def _size_error(size: int, message: str) -> TaskMoeError:
  """Explains a vocabulary size that SentencePiece refuses."""
  limit = re.search(r"set it to a value <= (\d+)", message)
  if limit:
    return TaskMoeError(
      f"a vocabulary of {size} pieces is too large for this text: at most"
      f" {limit[1]} can be made of it. Set VOCAB_SIZE, or raise"
      " VOCAB_SENTENCES."
    )
  minimum = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
  if minimum:
    return TaskMoeError(
      f"a vocabulary of {size} pieces is too small for this text: its"
      f" characters, bytes and symbols alone are {minimum[1]}. Set VOCAB_SIZE."
    )
  return TaskMoeError(
    f"no vocabulary of {size} pieces can be made: {message}. Set VOCAB_SIZE."
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class VocabularySource:
  """Where a run's vocabulary is, or how to make it.

  Attributes:
    path: The vocabulary to use, which must be there; None makes one from the
      mixture, in the run directory.
    size: Number of pieces of a new one.
    num_sentences: Number of sentences that a new one is trained on.
    seed: Seed of the sample of sentences.
  """

  path: str | None
  size: int
  num_sentences: int
  seed: int

  def load_or_train(
    self, corpus: Corpus, default_path: epath.Path
  ) -> Vocabulary:
    """Returns the vocabulary; trains it if no path is set and none is there.

    A cache brings the vocabulary it was tokenised with, which is copied.
    """
    if self.path is not None:
      return Vocabulary.load(self.path)
    if not default_path.exists():
      self.write(corpus, default_path)
    return Vocabulary.load(default_path)

  def write(self, corpus: Corpus, default_path: epath.Path) -> epath.Path:
    """Trains the vocabulary and writes it, to `path` or the default.

    Raises:
      TaskMoeError: Another vocabulary is there. It is left alone, because
        models may have been trained with it.
    """
    path = epath.Path(self.path or default_path)
    model = self._model(corpus)
    if path.exists() and path.read_bytes() != model:
      raise TaskMoeError(
        f"{str(path)!r} is another vocabulary than this mixture gives, and is"
        " left as it is. Set VOCABULARY or RUN_DIR, or move it away."
      )
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      write_whole(path, model)
    except OSError as error:
      raise TaskMoeError(
        f"cannot write the vocabulary {str(path)!r} ({error.strerror}). Set"
        " VOCABULARY or RUN_DIR to another place."
      ) from None
    return path

  def _model(self, corpus: Corpus) -> bytes:
    if corpus.vocabulary is not None:
      return corpus.vocabulary.model
    return train_vocabulary(
      corpus, size=self.size, num_sentences=self.num_sentences, seed=self.seed
    )


def make_vocabulary(
  *, vocabulary: VocabularySource, mixture: Mixture, run_dir: str
) -> epath.Path:
  """Writes a recipe's vocabulary, to its path or into the run directory."""
  return vocabulary.write(
    open_corpus(mixture), epath.Path(run_dir) / "vocabulary.model"
  )

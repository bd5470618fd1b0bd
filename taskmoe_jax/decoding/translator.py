"""Text in, text out: a model with its vocabulary and task space."""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from taskmoe_jax.decoding import batches, translations
from taskmoe_jax.decoding.batches import Sentence, padded
from taskmoe_jax.decoding.generate import generate, log_probabilities
from taskmoe_jax.decoding.search import (
  GREEDY,
  USUAL_LENGTHS,
  Lengths,
  Sampling,
  Search,
)
from taskmoe_jax.decoding.translations import Hypothesis, Score, Translations
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.models.parameters import unrolled
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.rules import Partitioning
from taskmoe_jax.task_space import TaskSpace, split_pair
from taskmoe_jax.vocabulary import EOS_ID, Vocabulary


class Translator:
  """Translates lines of text, with a whole mixture or with a sub-network.

  Lines are sorted by length and decoded in batches of one shape for each
  bucket of lengths (32, 64, 128, ... tokens), so that there are few shapes to
  compile. The result for a line depends neither on the lines beside it, nor
  on their order, nor on the batch size, the bucket or the mesh.

  Where there are several processes, all call the same methods with the same
  lines, and all get everything.
  """

  def __init__(
    self,
    model: ModelConfig,
    params: PyTree,
    task_space: TaskSpace,
    vocabulary: Vocabulary,
    *,
    partitioning: Partitioning | None = None,
  ):
    self.model = model
    # Copied to the device once; those of a file are NumPy arrays.
    self.params = jax.tree.map(jnp.asarray, params)
    self.task_space = task_space
    self.vocabulary = vocabulary
    self._partitioning = partitioning
    self._scanned = Transformer(model, len(task_space.tasks))
    self._unrolled = Transformer(model, len(task_space.tasks), unrolled=True)

  @functools.cached_property
  def _decoding_params(self) -> PyTree:
    """Made when first needed: the decoder is then in memory twice."""
    return unrolled(self.params, self.model)

  def translate(
    self,
    lines: Sequence[str],
    pair: str | None = None,
    *,
    search: Search = GREEDY,
    batch_size: int = 32,
  ) -> list[str]:
    """Returns the best translation of each line; see `decode`."""
    return self.decode(lines, pair, search=search, batch_size=batch_size).texts

  def decode(
    self,
    lines: Sequence[str],
    pair: str | None = None,
    *,
    batch_size: int,
    search: Search = GREEDY,
    lengths: Lengths = USUAL_LENGTHS,
    prefixes: Sequence[str] | None = None,
    progress: Callable[[int], None] = lambda number: None,
  ) -> Translations:
    """Translates lines.

    Args:
      lines: Sentences, one each.
      pair: Such as `de-en`. Need not be given if the model has one pair, or
        only pairs between which it makes no difference.
      batch_size: Rows decoded together.
      search: How to search.
      lengths: How long sources and translations may be.
      prefixes: What each line's translation must begin with; empty for no
        prefix. They are tokenized separately.
      progress: Called with the number of lines that have just been decoded.

    Raises:
      TaskMoeError: The pair is unknown, or needed and not given; a line is too
        long; there is not one prefix for each line.
    """
    if prefixes is None:
      prefixes = [""] * len(lines)
    if len(prefixes) != len(lines):
      raise TaskMoeError(
        f"{len(lines)} lines have {len(prefixes)} prefixes: one each is wanted,"
        " empty where there is none. Set --prefixes."
      )
    num_rows = self._num_rows(len(lines), batch_size)
    pair = self._pair(pair)
    sentences = batches.check_lengths(
      self._with_prefixes(lines, prefixes, pair), lengths
    )
    sentences = batches.count_occurrences(sentences)
    found: list[list[Hypothesis]] = [
      [Hypothesis("", [], 0.0, True)] for _ in lines
    ]
    progress(len(lines) - len(sentences))
    decode_batch = functools.partial(
      self._decode_batch,
      num_rows=num_rows,
      pair=pair,
      search=search,
      lengths=lengths,
      num_compactions=batches.compactions_by_bucket(
        sentences, num_rows, self._num_shards
      ),
    )
    for batch in batches.in_batches(sentences, num_rows):
      n_best = decode_batch(batch)
      for sentence, hypotheses in zip(batch, n_best, strict=True):
        found[sentence.index] = hypotheses
      progress(len(batch))
    return Translations(found)

  def score(
    self,
    sources: Sequence[str],
    targets: Sequence[str],
    pair: str | None = None,
    *,
    batch_size: int = 32,
    lengths: Lengths = USUAL_LENGTHS,
    progress: Callable[[int], None] = lambda number: None,
  ) -> list[Score]:
    """Says how likely given translations are.

    Args:
      sources: Sentences.
      targets: A translation of each.
      pair: As for `decode`.
      batch_size: Rows computed together.
      lengths: How long sources may be.
      progress: Called with the number of lines that have just been scored.

    Raises:
      TaskMoeError: As `decode`; or there is not one target for each source.
    """
    if len(sources) != len(targets):
      raise TaskMoeError(
        f"{len(sources)} sources have {len(targets)} targets: one each is"
        " wanted. Set --targets."
      )
    num_rows = self._num_rows(len(sources), batch_size)
    pair = self._pair(pair)
    sentences = self._sentences(sources, range(len(sources)), pair)
    sentences = batches.check_lengths(sentences, lengths)
    wanted = [[*ids, EOS_ID] for ids in self.vocabulary.encode(targets)]
    # Targets of one bucket side by side, as their sources are.
    sentences = sorted(
      sentences, key=lambda s: -batches.bucket(len(wanted[s.index]))
    )
    found: list[Score] = [Score([], []) for _ in sources]
    for batch in batches.in_batches(sentences, num_rows):
      of_batch = [wanted[s.index] for s in batch]
      rows, _ = batches.as_rows(
        batch, num_rows, task_id=self._task_id(pair), lengths=lengths, seed=0
      )
      log_probs = self._on_devices(
        lambda rows, targets, **shared: log_probabilities(
          self.params,
          rows.sources,
          targets,
          rows.task_ids,
          model=self._scanned,
          **shared,
        ),
        num_rows,
        rows,
        padded(of_batch, num_rows),
      )
      for sentence, ids, row in zip(batch, of_batch, log_probs, strict=False):
        found[sentence.index] = Score(ids, row[: len(ids)].tolist())
      progress(len(batch))
    return found

  def _pair(self, pair: str | None) -> str:
    space = self.task_space
    if pair is not None:
      space.task_of_pair(pair)
      for language in split_pair(pair):
        space.language_id(language)
      return pair
    kinds = {(space.task_of_pair(p), split_pair(p)[1]) for p in space.pairs}
    if len(kinds) == 1:
      return space.pairs[0]
    raise TaskMoeError(
      "which pair to translate is not clear: accepted are"
      f" {', '.join(space.pairs)}. Set --pair."
    )

  def _task_id(self, pair: str) -> int:
    return self.task_space.task_id(self.task_space.task_of_pair(pair))

  def _sentences(
    self, lines: Sequence[str], chosen: Sequence[int], pair: str
  ) -> list[Sentence]:
    symbol = self.vocabulary.target_id(split_pair(pair)[1])
    encoded = self.vocabulary.encode([lines[i] for i in chosen])
    return [
      Sentence(index, [symbol, *ids, EOS_ID])
      for index, ids in zip(chosen, encoded, strict=True)
    ]

  def _with_prefixes(
    self, lines: Sequence[str], prefixes: Sequence[str], pair: str
  ) -> list[Sentence]:
    """The sentences of all lines that are not empty."""
    full = [i for i, line in enumerate(lines) if line.strip()]
    starts = self.vocabulary.encode([prefixes[i] for i in full])
    return batches.with_prefixes(self._sentences(lines, full, pair), starts)

  def _num_rows(self, num_lines: int, batch_size: int) -> int:
    """Rows of every batch: few for few lines, and the same on all devices."""
    if batch_size < 1:
      raise TaskMoeError(
        f"batch_size={batch_size} is not at least 1. Set --batch_size."
      )
    enough = 1
    while enough < num_lines:
      enough *= 2
    shards = self._num_shards
    return -(-min(batch_size, enough) // shards) * shards

  @property
  def _num_shards(self) -> int:
    return self._partitioning.num_row_shards if self._partitioning else 1

  def _decode_batch(
    self,
    batch: Sequence[Sentence],
    *,
    num_rows: int,
    pair: str,
    search: Search,
    lengths: Lengths,
    num_compactions: Mapping[int, int],
  ) -> list[list[Hypothesis]]:
    rows, target_length = batches.as_rows(
      batch,
      num_rows,
      task_id=self._task_id(pair),
      lengths=lengths,
      seed=search.seed if isinstance(search, Sampling) else 0,
    )
    if isinstance(search, Sampling):
      # The keys have it; another seed need not be compiled anew.
      search = dataclasses.replace(search, seed=0)
    found = self._on_devices(
      functools.partial(
        generate,
        self._decoding_params,
        model=self._unrolled,
        search=search,
        target_length=target_length,
        num_compactions=num_compactions[batches.bucket(len(batch[0].source))],
      ),
      num_rows,
      rows,
    )
    return [
      translations.read_hypotheses(
        found, row, int(rows.limits[row]), self.vocabulary
      )
      for row in range(len(batch))
    ]

  def _on_devices(
    self, function: Callable, num_rows: int, *rows: PyTree
  ) -> PyTree:
    """Calls a function with rows on the devices, and waits for its result."""
    if self._partitioning is not None:
      rows = jax.tree.map(self._partitioning.spread_rows, rows)
    found = function(
      *rows,
      rows_per_task_group=num_rows // self._num_shards,
      partitioning=self._partitioning,
    )
    return jax.device_get(found)

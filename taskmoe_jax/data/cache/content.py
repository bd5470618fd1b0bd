"""What goes into a cache: a mixture's texts, and the settings that shape it."""

import hashlib
from typing import Any, NamedTuple

import numpy as np

from taskmoe_jax.data.cache import cache_files
from taskmoe_jax.data.corpus import Corpus, Text, read
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.vocabulary import Vocabulary

# Examples to keep of an endless text that is only evaluated.
_ENDLESS_EVALUATED = 2000
# Examples whose hash detects another text of the same size.
_DIGESTED = 256


class Part(NamedTuple):
  """A part of a text, which both directions of a pair may share."""

  columns: Text
  size: int
  report: Any  # from its source, such as the counts of cleaning


class Content(NamedTuple):
  """The content of a cache.

  Attributes:
    texts: The parts of each text, by the text's name.
    pairs: The text, direction and rate of each pair.
  """

  texts: dict[str, dict[str, Part]]
  pairs: dict[str, dict[str, Any]]


def content_of(corpus: Corpus, endless_examples: int | None) -> Content:
  """Finds the texts of all pairs, each one once."""
  rates = corpus.rates
  content = Content({}, {})
  for pair in corpus.pairs:
    found = {}
    swapped = False
    for part in corpus.parts(pair):
      columns, swapped = corpus.columns(pair, part)
      size = _size(corpus, pair, part, endless_examples)
      found[part] = Part(columns, size, getattr(columns, "report", None))
    name = "-".join(reversed(pair.split("-"))) if swapped else pair
    known = content.texts.get(name, found)
    if any(
      known.get(p, found[p]).columns is not found[p].columns for p in found
    ):
      name = f"{pair}+own"  # the other direction has different text
    content.texts.setdefault(name, {}).update(found)
    content.pairs[pair] = {
      "text": name,
      "swapped": swapped,
      "rate": rates.get(pair),
    }
  return content


def _size(
  corpus: Corpus, pair: str, part: str, endless_examples: int | None
) -> int:
  size = corpus.size(pair, part)
  if size is not None:
    return size
  if endless_examples is None:
    raise TaskMoeError(
      f"the {part} part of {pair} is endless: say how many examples to keep."
      " Set write_cache.endless_examples."
    )
  if part == "train":
    return endless_examples
  return min(endless_examples, _ENDLESS_EVALUATED)


def settings_of(
  name: str, content: Content, tokens: Vocabulary, examples_per_shard: int
) -> dict[str, Any]:
  """Everything that decides a cache's content, as a flat dict of settings."""
  settings = {
    "format": cache_files.FORMAT,
    "mixture": name,
    "vocabulary": tokens.checksum,
    "examples_per_shard": examples_per_shard,
    "pairs": content.pairs,
  }
  for text, parts in content.texts.items():
    for part, found in parts.items():
      digest = _digest(found)
      settings[f"{part} text of {text}"] = f"{found.size} examples, {digest}"
  return settings


def _digest(part: Part) -> str:
  """A hash of some examples, to detect another text of the same size."""
  places = np.linspace(0, part.size - 1, min(part.size, _DIGESTED))
  digest = hashlib.sha256()
  for sides in read(part.columns, places.astype(np.int64).tolist()):
    digest.update("\t".join(sides).encode())
  return digest.hexdigest()[:12]

"""`cldr_30`: English with 15 languages, endless and offline, from Babel."""

import functools
from collections.abc import Sequence

from taskmoe_jax.data.cldr.generator import LANGUAGES, CldrText
from taskmoe_jax.data.corpus import PARTS, Mixture
from taskmoe_jax.errors import TaskMoeError, one_of

# Twice what one direction reads at once (`live.py`).
_REMEMBERED = 2048


class RememberedText:
  """CLDR text that caches recent examples.

  The two directions of a pair read the same examples, one soon after the
  other, and generating an example costs ten times what tokenising it does.
  """

  def __init__(self, language: str, part: str, seed: int):
    text = CldrText(language, part, seed)
    self._read = functools.lru_cache(_REMEMBERED)(text.__getitem__)

  def __getitem__(self, index: int) -> tuple[str, str]:
    return self._read(index)


def cldr_30(
  vocabulary: str | None,
  *,
  seed: int,
  temperature: float,
  languages: Sequence[str] = LANGUAGES,
) -> Mixture:
  """Registers the 30 pairs of CLDR text and their mixture.

  The text is endless, so that all pairs have the same rate and the temperature
  changes nothing.

  Args:
    vocabulary: Vocabulary of the seqio tasks, see `register_mixture`.
    seed: Seed of the text.
    temperature: Sampling temperature, see `register_mixture`.
    languages: Which languages to pair with English.
  """
  # Not above: gin names a mixture even where a cache replaces it, and that
  # should not cost the seconds that importing seqio takes.
  from taskmoe_jax.data.seqio.registration import register_mixture
  from taskmoe_jax.data.seqio.sources import ParallelSource

  for language in languages:
    if language not in LANGUAGES:
      raise TaskMoeError(
        one_of("language", language, LANGUAGES) + ". Set cldr_30.languages."
      )
  foreign = [language for language in languages if language != "en"]
  if not foreign:
    raise TaskMoeError(
      "cldr_30 has no language to pair with English. Set cldr_30.languages."
    )
  sources = []
  for language in foreign:
    texts = {
      part: functools.cache(
        functools.partial(RememberedText, language, part, seed)
      )
      for part in PARTS
    }
    sources += [
      ParallelSource("en", language, texts),
      ParallelSource(language, "en", texts, swapped=True),
    ]
  return register_mixture(
    "cldr_30",
    sources,
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix="cldr",
  )

"""`cldr_30`: English with 15 languages, endless and offline, from Babel."""

import functools
from collections.abc import Sequence

import seqio

from taskmoe_jax.data.cldr import LANGUAGES, CldrText
from taskmoe_jax.data.registration import register_mixture
from taskmoe_jax.data.sources import PARTS, ParallelSource
from taskmoe_jax.errors import TaskMoeError, one_of


def cldr_30(
  vocabulary: str | None,
  *,
  seed: int,
  temperature: float,
  languages: Sequence[str] = LANGUAGES,
) -> seqio.Mixture:
  """Registers the 30 pairs of CLDR text and their mixture.

  The text is endless, so that all pairs have the same rate and the temperature
  changes nothing.

  Args:
    vocabulary: Of the seqio tasks, see `register_mixture`.
    seed: Of the text.
    temperature: Of the sampling, see `register_mixture`.
    languages: Which languages to pair with English.
  """
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
      part: functools.cache(functools.partial(CldrText, language, part, seed))
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

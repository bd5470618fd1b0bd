"""`wmt_30` and `wmt_32`: the paper's WMT data, from TFDS and sacrebleu.

The editions are those of the paper's table 3 (`wmt_builders.py`). TFDS's text
is copied into the text cache when it is first read, to be read by index.
"""

import functools
from collections.abc import Callable, Sequence

import seqio

from taskmoe_jax.data.cleaning import Cleaning
from taskmoe_jax.data.corpus import Text
from taskmoe_jax.data.registration import (
  both_directions,
  cleaned_texts,
  register_mixture,
)
from taskmoe_jax.data.sources import ParallelSource, swap
from taskmoe_jax.data.test_sets import read_test_set
from taskmoe_jax.data.text_spool import spool
from taskmoe_jax.data.text_store import TextStore
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.tasks import wmt_builders
from taskmoe_jax.tasks.wmt_builders import EDITIONS, ZERO_SHOT, Split

LANGUAGES = tuple(EDITIONS)


def wmt_30(
  vocabulary: str | None,
  *,
  temperature: float,
  data_dir: str | None,
  cleaning: Cleaning | None,
  languages: Sequence[str] = LANGUAGES,
) -> seqio.Mixture:
  """Registers English with the paper's 15 languages, in both directions.

  Args:
    vocabulary: Of the seqio tasks, see `register_mixture`.
    temperature: Of the sampling, see `register_mixture`.
    data_dir: Where TFDS's data is; None for TFDS's own place.
    cleaning: What to leave out of the train parts; None for nothing.
    languages: Which languages to pair with English.

  Raises:
    TaskMoeError: Some data is not there; says how to get all of it.
  """
  sources = _english_centric(languages, data_dir, cleaning, zero_shot=False)
  return register_mixture(
    "wmt_30",
    sources,
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix="wmt",
  )


def wmt_32(
  vocabulary: str | None,
  *,
  temperature: float,
  data_dir: str | None,
  cleaning: Cleaning | None,
) -> seqio.Mixture:
  """Registers `wmt_30` with de-fr and fr-de, which are only evaluated.

  They have no train part and no rate. The paper's averages are over these 32.
  """
  sources = _english_centric(LANGUAGES, data_dir, cleaning, zero_shot=True)
  opened = functools.cache(
    functools.partial(_read, ZERO_SHOT["validation"], ("fr", "de"), data_dir)
  )
  for pair in (("fr", "de"), ("de", "fr")):
    texts = {
      "validation": _direction(opened, swapped=pair[0] == "de"),
      "test": _test_set(ZERO_SHOT["test"], pair),
    }
    sources.append(ParallelSource(*pair, texts))
  return register_mixture(
    "wmt_32",
    sources,
    vocabulary=vocabulary,
    temperature=temperature,
    task_prefix="wmt",
  )


def _english_centric(
  languages: Sequence[str],
  data_dir: str | None,
  cleaning: Cleaning | None,
  *,
  zero_shot: bool,
) -> list[ParallelSource]:
  for language in languages:
    if language not in EDITIONS:
      raise TaskMoeError(
        one_of("language", language, EDITIONS) + ". Set wmt_30.languages."
      )
  splits = [split for language in languages for split in EDITIONS[language]]
  splits += ZERO_SHOT.values() if zero_shot else []
  wmt_builders.check_prepared(
    [split.builder for split in splits if not split.is_sacrebleu], data_dir
  )
  sources = []
  for language in languages:
    sources += _both(language, data_dir, cleaning)
  return sources


def _both(
  language: str, data_dir: str | None, cleaning: Cleaning | None
) -> list[ParallelSource]:
  """The two sources of a language and English."""
  pair = (language, "en")
  parts = EDITIONS[language]._asdict()
  texts = {
    part: functools.partial(_read, split, pair, data_dir)
    for part, split in parts.items()
    if not split.is_sacrebleu
  }
  if "test" in texts:
    return both_directions(pair, texts, cleaning=cleaning)
  opened = cleaned_texts(pair, texts, cleaning)
  return [
    ParallelSource(
      *direction,
      {
        **{
          part: _direction(text, swapped=direction != pair)
          for part, text in opened.items()
        },
        "test": _test_set(parts["test"], direction),
      },
    )
    for direction in (pair, pair[::-1])
  ]


def _direction(
  opened: Callable[[], Text], *, swapped: bool
) -> Callable[[], Text]:
  return (lambda: swap(opened())) if swapped else opened


def _test_set(split: Split, pair: tuple[str, str]) -> Callable[[], Text]:
  @functools.cache
  def opened() -> Text:
    name = split.builder.removeprefix("sacrebleu:")
    lines = read_test_set(name, "-".join(pair))
    return list(zip(lines.sources, lines.references[0], strict=True))

  return opened


def _read(
  split: Split, pair: tuple[str, str], data_dir: str | None
) -> TextStore:
  builder = wmt_builders.make_builder(split.builder, data_dir)
  key = {
    "builder": str(builder.data_path),
    "split": split.split,
    # Told by TFDS, to see a builder that was prepared anew.
    "sizes": [
      (part, info.num_examples) for part, info in builder.info.splits.items()
    ],
  }
  name = f"{split.builder}-{split.split}".replace("/", "-")
  return spool(
    name,
    key,
    lambda: builder.as_dataset(split=split.split, shuffle_files=False),
    features=pair,
  )

"""Sources of the paper's WMT data, in TFDS and sacrebleu; see `wmt.py`."""

import functools
from collections.abc import Callable, Sequence

from taskmoe_jax.data.corpus import Text
from taskmoe_jax.data.seqio.registration import both_directions, cleaned_texts
from taskmoe_jax.data.seqio.sources import ParallelSource, swap
from taskmoe_jax.data.seqio.text_spool import spool
from taskmoe_jax.data.text.cleaning import Cleaning
from taskmoe_jax.data.text.test_sets import read_test_set
from taskmoe_jax.data.text.text_store import TextStore
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.tasks import wmt_builders
from taskmoe_jax.tasks.wmt_builders import EDITIONS, ZERO_SHOT, Split


def english_centric(
  languages: Sequence[str] | None,
  data_dir: str | None,
  cleaning: Cleaning | None,
  *,
  zero_shot: bool,
) -> list[ParallelSource]:
  """Both directions of English with languages, the paper's unless given.

  With `zero_shot` there are also de-fr and fr-de, without a train part.
  """
  if languages is None:
    languages = tuple(EDITIONS)
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
  return sources + (_zero_shot(data_dir) if zero_shot else [])


def _zero_shot(data_dir: str | None) -> list[ParallelSource]:
  opened = functools.cache(
    functools.partial(_read, ZERO_SHOT["validation"], ("fr", "de"), data_dir)
  )
  return [
    ParallelSource(
      *pair,
      {
        "validation": _direction(opened, swapped=pair[0] == "de"),
        "test": _test_set(ZERO_SHOT["test"], pair),
      },
    )
    for pair in (("fr", "de"), ("de", "fr"))
  ]


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

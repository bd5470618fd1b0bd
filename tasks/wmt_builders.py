"""Which TFDS builders have the WMT data of the paper, and how to prepare them.

  python -m taskmoe_jax.tasks.wmt_builders --data_dir=DIR BUILDER ...

downloads and prepares builders by the names of `EDITIONS`. Most exist in TFDS;
those called `wmt_translate/...` are ours, and have only dev and test sets that
no existing one has separately.
"""

import argparse
from collections.abc import Iterable
from typing import NamedTuple

import tensorflow_datasets as tfds
import tensorflow_datasets.translate.wmt as tfds_wmt

from taskmoe_jax.errors import TaskMoeError, one_of


class Split(NamedTuple):
  """A split of a builder, or a test set of sacrebleu."""

  builder: str
  split: str = ""

  @property
  def is_sacrebleu(self) -> bool:
    return self.builder.startswith("sacrebleu:")


class Edition(NamedTuple):
  """Where a language's parts are (table 3 of the paper)."""

  train: Split
  validation: Split
  test: Split


# TFDS has no newstest2019. sacrebleu has one for each direction, because since
# 2019 the sources are what was written in their language.
_NEWSTEST_2019 = Split("sacrebleu:wmt19")


def _ready(builder: str, *, test: Split | None = None) -> Edition:
  """A builder whose splits are those of the paper."""
  return Edition(
    Split(builder, "train"),
    Split(builder, "validation"),
    test or Split(builder, "test"),
  )


def _of_2019(language: str) -> Edition:
  return _ready(f"wmt19_translate/{language}-en", test=_NEWSTEST_2019)


EDITIONS = {
  "cs": Edition(
    Split("wmt19_translate/cs-en", "train"),
    Split("wmt_translate/cs-en.newstest2017", "validation"),
    # Its dev set is newstest2018.
    Split("wmt19_translate/cs-en", "validation"),
  ),
  "fr": Edition(
    Split("wmt15_translate/fr-en", "train"),
    Split("wmt_translate/fr-en.newstest2013_2014", "validation"),
    Split("wmt_translate/fr-en.newstest2013_2014", "test"),
  ),
  "ru": _of_2019("ru"),
  "zh": _of_2019("zh"),
  "es": Edition(
    Split("wmt13_translate/es-en", "train"),
    # The dev set of WMT13 that is no older one: 3003 lines, for the paper's
    # 3004.
    Split("wmt_translate/es-en.newstest2012", "validation"),
    Split("wmt13_translate/es-en", "test"),
  ),
  "fi": _of_2019("fi"),
  "de": _ready("wmt14_translate/de-en"),
  "et": _ready("wmt18_translate/et-en"),
  "lv": _ready("wmt17_translate/lv-en"),
  "lt": _of_2019("lt"),
  "ro": _ready("wmt16_translate/ro-en"),
  "hi": _ready("wmt14_translate/hi-en"),
  "kk": _of_2019("kk"),
  "tr": _ready("wmt18_translate/tr-en"),
  "gu": _of_2019("gu"),
}

# French with German is only evaluated (zero-shot). The table's numbers of
# sentences, 1512 and 1701, are those of these two sets of 2019.
ZERO_SHOT = {
  "validation": Split("wmt_translate/fr-de.euelections_dev2019", "validation"),
  "test": _NEWSTEST_2019,
}

_DEV, _TEST = tfds.Split.VALIDATION, tfds.Split.TEST
# What of TFDS's subsets makes up our own builders.
_OWN = {
  "cs-en.newstest2017": {_DEV: ["newstest2017"]},
  "fr-en.newstest2013_2014": {
    _DEV: ["newstest2013"],
    _TEST: ["newstest2014"],
  },
  "es-en.newstest2012": {_DEV: ["newstest2012"]},
  "fr-de.euelections_dev2019": {_DEV: ["euelections_dev2019"]},
}


def make_builder(name: str, data_dir: str | None) -> tfds.core.DatasetBuilder:
  """Returns a builder of `EDITIONS` or `ZERO_SHOT` by its name."""
  builder, _, config = name.partition("/")
  if builder == "wmt_translate":
    if config not in _OWN:
      raise TaskMoeError(one_of("builder of wmt_translate", config, _OWN) + ".")
    pair, _, suffix = config.partition(".")
    config = tfds_wmt.WmtConfig(
      name=suffix,
      language_pair=tuple(pair.split("-")),
      subsets=_OWN[config],
      version=tfds.core.Version("1.0.0"),
      description="Sets of the WMT news task, by themselves.",
    )
  return tfds.builder(builder, config=config, data_dir=data_dir, try_gcs=False)


def check_prepared(names: Iterable[str], data_dir: str | None) -> None:
  """Refuses builders that are not there, all at once, and says what to do."""
  missing = [
    name
    for name in dict.fromkeys(names)
    if not make_builder(name, data_dir).is_prepared()
  ]
  if not missing:
    return
  place = str(data_dir or tfds.core.constants.DATA_DIR)
  raise TaskMoeError(
    f"{len(missing)} TFDS builders of the WMT data are not prepared in"
    f" {place!r}. Where there is a network run `python -m"
    f" taskmoe_jax.tasks.wmt_builders --data_dir={place} {' '.join(missing)}`,"
    " or set TFDS_DATA_DIR to where they are. CzEng (cs), HindEnCorp (hi) and"
    " the Yandex corpus (ru) are to be downloaded by hand first; preparing them"
    " says how."
  )


def main(argv: list[str] | None = None) -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--data_dir", help="TFDS's own unless given")
  parser.add_argument("builders", nargs="+", metavar="BUILDER")
  args = parser.parse_args(argv)
  for name in args.builders:
    make_builder(name, args.data_dir).download_and_prepare()
    print(f"{name} is prepared")


if __name__ == "__main__":
  main()

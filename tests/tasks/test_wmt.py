import collections

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from taskmoe_jax.data.corpus import examples, task_space_of
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.seqio.sources import parallel_sources, rates
from taskmoe_jax.data.text.cleaning import Cleaning
from taskmoe_jax.data.text.test_sets import TestSet
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.tasks import wmt, wmt_builders, wmt_sources

_OPTIONS = {"temperature": 5.0, "data_dir": "nowhere", "cleaning": None}
# Section 3 of the paper: what each part is made of, by TFDS's names.
_DEV_AND_TEST = {
  "cs": ("newstest2017", "newstest2018"),
  "fr": ("newstest2013", "newstest2014"),
  "ru": ("newstest2018", "wmt19"),
  "zh": ("newstest2018", "wmt19"),
  "es": ("newstest2012", "newstest2013"),
  "fi": ("newstest2018", "wmt19"),
  "de": ("newstest2013", "newstest2014"),
  "et": ("newsdev2018", "newstest2018"),
  "lv": ("newsdev2017", "newstest2017"),
  "lt": ("newsdev2019", "wmt19"),
  "ro": ("newsdev2016", "newstest2016"),
  "hi": ("newsdev2014", "newstest2014"),
  "kk": ("newsdev2019", "wmt19"),
  "tr": ("newstest2017", "newstest2018"),
  "gu": ("newsdev2019", "wmt19"),
}
_TRAIN_YEAR = {
  **dict.fromkeys(("cs", "ru", "zh", "fi", "lt", "kk", "gu"), 19),
  **dict.fromkeys(("et", "tr"), 18),
  **dict.fromkeys(("de", "hi"), 14),
  "fr": 15,
  "es": 13,
  "lv": 17,
  "ro": 16,
}


def _subsets(split):
  if split.is_sacrebleu:
    return [split.builder.removeprefix("sacrebleu:")]
  builder = wmt_builders.make_builder(split.builder, "nowhere")
  return builder.subsets[split.split]


@pytest.mark.parametrize("language", _DEV_AND_TEST)
def test_editions_are_those_of_the_paper(language):
  edition = wmt_builders.EDITIONS[language]
  dev, test = _DEV_AND_TEST[language]
  assert _subsets(edition.validation) == [dev]
  assert _subsets(edition.test) == [test]
  year = _TRAIN_YEAR[language]
  assert edition.train == (f"wmt{year}_translate/{language}-en", "train")
  assert _subsets(edition.train)


def test_there_are_fifteen_languages_and_two_zero_shot_pairs():
  assert wmt_builders.EDITIONS.keys() == _DEV_AND_TEST.keys()
  assert len(_DEV_AND_TEST) == 15
  dev, test = wmt_builders.ZERO_SHOT.values()
  assert (_subsets(dev), _subsets(test)) == (["euelections_dev2019"], ["wmt19"])


@pytest.fixture
def mocked(monkeypatch, tmp_path):
  """TFDS and sacrebleu with little text; says which splits were read."""
  monkeypatch.setenv("TASKMOE_CACHE", str(tmp_path))
  read = collections.Counter()

  def as_dataset(self, *, split, **_):
    config = self.builder_config.name
    read[f"{self.name}/{config}:{split}"] += 1
    size = 7 if split == "train" else 3
    first, second = self.builder_config.language_pair
    lines = {
      name: [f"{name} {config} {split} {i}" for i in range(size)]
      for name in (first, second)
    }
    return tf.data.Dataset.from_tensor_slices(lines)

  monkeypatch.setattr(
    tfds.core.DatasetBuilder, "is_prepared", lambda self: True
  )
  monkeypatch.setattr(
    wmt_sources,
    "read_test_set",
    lambda name, pair: TestSet([f"{name} {pair}"], [[f"ref {pair}"]]),
  )
  with tfds.testing.mock_data(as_dataset_fn=as_dataset):
    yield read


@pytest.mark.slow
def test_wmt_30(mocked):
  mixture = wmt.wmt_30("none.model", **_OPTIONS)
  sources = parallel_sources(mixture)
  assert len(sources) == 30
  assert not mocked  # nothing is read before it is asked for
  assert rates(mixture) == pytest.approx(dict.fromkeys(sources, 1 / 30))
  assert set(mocked.values()) == {1}  # both directions share a copy
  text = sources["en-de"].text("train")
  assert text.read([6, 0]) == [
    ("en de-en train 6", "de de-en train 6"),
    ("en de-en train 0", "de de-en train 0"),
  ]
  assert sources["de-en"].text("train")[2] == text[2][::-1]
  for pair, source, target in (
    ("ru-en", "wmt19 ru-en", "ref ru-en"),
    ("en-ru", "wmt19 en-ru", "ref en-ru"),
    ("cs-en", "cs cs-en validation 0", "en cs-en validation 0"),
    ("en-fr", *[f"{x} fr-en.newstest2013_2014 test 0" for x in ("en", "fr")]),
  ):
    found = examples(open_corpus(mixture), part="test", pair=pair, limit=1)
    assert found == [(source, target)]
  for pair in sources:
    assert set(sources[pair].splits) == {"train", "validation", "test"}


@pytest.mark.slow
def test_wmt_32_has_two_pairs_that_are_only_evaluated(mocked):
  mixture = wmt.wmt_32("none.model", **_OPTIONS)
  corpus = open_corpus(mixture)
  assert len(corpus.pairs) == 32
  assert set(corpus.pairs) - set(corpus.rates) == {"de-fr", "fr-de"}
  for pair, first in (("de-fr", "de"), ("fr-de", "fr")):
    assert corpus.parts(pair) == ("validation", "test")
    assert examples(open_corpus(mixture), part="test", pair=pair, limit=9) == [
      (f"wmt19 {pair}", f"ref {pair}")
    ]
    found = examples(
      open_corpus(mixture), part="validation", pair=pair, limit=1
    )[0][0]
    assert found == f"{first} fr-de.euelections_dev2019 validation 0"
  assert (
    task_space_of(open_corpus(mixture), "target").task_of_pair("de-fr") == "fr"
  )
  with pytest.raises(TaskMoeError) as error:
    task_space_of(open_corpus(mixture), "pair")
  assert str(error.value) == (
    "de-fr, fr-de of mixture 'wmt_32' have no train part, and so no task where"
    " one is routed by pair. Set TASK_BY to 'target' or 'source', or MIXTURE to"
    " one without them."
  )


@pytest.mark.slow
def test_seqio_reads_it_too(mocked):
  mixture = wmt.wmt_30(None, **_OPTIONS | {"languages": ("ro",)})
  assert [task.name for task in mixture.tasks] == ["wmt_en_ro", "wmt_ro_en"]
  dataset = mixture.tasks[0].get_dataset(split="test", shuffle=False)
  assert next(dataset.as_numpy_iterator())["targets"] == b"ro ro-en test 0"


def test_cleaning(mocked):
  cleaning = Cleaning(
    max_characters=None,
    max_words=3,
    max_length_ratio=None,
    ratio_from_characters=0,
    copies=False,
    duplicates=False,
    min_script_share=None,
  )
  options = {**_OPTIONS, "cleaning": cleaning, "languages": ("de",)}
  source = parallel_sources(wmt.wmt_30(None, **options))["en-de"]
  assert source.cleaning_counts["too_long"] == source.cleaning_counts["lines"]
  assert source.size("validation") == 3


def test_all_that_is_missing_is_said_at_once(tmp_path):
  with pytest.raises(TaskMoeError) as error:
    wmt.wmt_30(
      None, **_OPTIONS | {"data_dir": str(tmp_path), "languages": ("fr", "de")}
    )
  assert str(error.value).startswith(
    f"3 TFDS builders of the WMT data are not prepared in '{tmp_path}'. Where"
    " there is a network run `python -m taskmoe_jax.tasks.wmt_builders"
    f" --data_dir={tmp_path} wmt15_translate/fr-en"
    " wmt_translate/fr-en.newstest2013_2014 wmt14_translate/de-en`, or set"
    " TFDS_DATA_DIR to where they are."
  )
  with pytest.raises(TaskMoeError, match="19 TFDS builders"):
    wmt.wmt_32(None, **_OPTIONS | {"data_dir": str(tmp_path)})


def test_the_command_prepares_builders(capsys):
  names = ["wmt14_translate/de-en", "wmt_translate/es-en.newstest2012"]
  with tfds.testing.mock_data():  # its preparing does nothing
    wmt_builders.main(["--data_dir=nowhere", *names])
  assert capsys.readouterr().out == "".join(f"{n} is prepared\n" for n in names)


def test_languages_and_builders_that_there_are_not():
  with pytest.raises(TaskMoeError, match=r"language 'xx': .*wmt_30\.languages"):
    wmt.wmt_30(None, **_OPTIONS | {"languages": ("xx",)})
  with pytest.raises(TaskMoeError, match="unknown builder of wmt_translate"):
    wmt_builders.make_builder("wmt_translate/xx-en", None)

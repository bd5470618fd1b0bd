import gzip

import numpy as np
import pytest
import seqio

from taskmoe_jax.data.batches.batches import TrainBatches
from taskmoe_jax.data.cldr.generator import LANGUAGES, CldrText
from taskmoe_jax.data.corpus import examples, task_space_of
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.seqio.sources import parallel_sources, rates
from taskmoe_jax.data.text.vocabulary_training import train_vocabulary
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.tasks.cldr import cldr_30
from taskmoe_jax.tasks.tsv import tsv
from taskmoe_jax.vocabulary import Vocabulary


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """CLDR text in files: 240 lines of en-de, 60 of en-fi."""
  folder = tmp_path_factory.mktemp("tsv")
  for language, part, size in (
    ("de", "train", 240),
    ("de", "dev", 7),
    ("fi", "train", 60),
  ):
    text = CldrText(language, "train", 1)
    lines = ["\t".join(text[index]) for index in range(size)]
    path = folder / f"en-{language}.{part}.tsv.gz"
    path.write_bytes(gzip.compress("\n".join(lines).encode()))
  return folder


@pytest.fixture(scope="module")
def vocabulary_path(folder, tmp_path_factory):
  path = tmp_path_factory.mktemp("vocabulary") / "spm.model"
  mixture = tsv(str(folder), vocabulary=str(path), temperature=5.0)
  model = train_vocabulary(
    open_corpus(mixture), size=500, num_sentences=400, seed=1
  )
  path.write_bytes(model)
  return str(path)


def test_tsv_makes_both_directions(folder):
  mixture = tsv(str(folder), vocabulary="none.model", temperature=2.0)
  assert mixture.name == "tsv"
  names = ["tsv_de_en", "tsv_en_de", "tsv_en_fi", "tsv_fi_en"]
  assert [task.name for task in mixture.tasks] == names
  sources = parallel_sources(mixture)
  first = CldrText("de", "train", 1)[0]
  assert sources["en-de"].text("train")[0] == first
  assert sources["de-en"].text("train")[0] == first[::-1]
  assert sources["en-fi"].splits == ("train",)
  assert (
    examples(open_corpus(mixture), part="validation", pair="de-en", limit=None)[
      0
    ]
    == (first[::-1])
  )
  # The square roots of 240 and 60 are as 2 to 1.
  assert rates(mixture) == pytest.approx(
    {"de-en": 1 / 3, "en-de": 1 / 3, "en-fi": 1 / 6, "fi-en": 1 / 6}
  )


def test_both_directions_read_a_file_once(folder):
  mixture = tsv(str(folder), vocabulary="none.model", temperature=5.0)
  sources = parallel_sources(mixture)
  text = sources["en-de"].text("train")
  assert sources["de-en"].text("train")._text is text


def test_registering_again_replaces(folder, tmp_path):
  (tmp_path / "en-de.train.tsv").write_text("one\teins\n")
  tsv(str(folder), vocabulary="none.model", temperature=5.0)
  mixture = tsv(str(tmp_path), vocabulary="other.model", temperature=5.0)
  assert seqio.MixtureRegistry.get("tsv") is mixture
  assert [task.name for task in mixture.tasks] == ["tsv_de_en", "tsv_en_de"]
  source = seqio.TaskRegistry.get("tsv_de_en").source
  assert source.text("train")[0] == ("eins", "one")

  named = tsv(str(folder), vocabulary="v", temperature=5.0, name="mine")
  assert named.tasks[0].name == "mine_de_en"
  assert seqio.MixtureRegistry.get("tsv") is mixture


def test_cldr_has_thirty_pairs():
  mixture = cldr_30("none.model", seed=3, temperature=5.0)
  assert mixture.name == "cldr_30"
  sources = parallel_sources(mixture)
  assert len(sources) == 30
  assert {source.pair for source in sources.values()} == {
    f"{a}-{b}"
    for a in LANGUAGES
    for b in LANGUAGES
    if (a == "en") != (b == "en")
  }
  assert set(rates(mixture).values()) == {1 / 30}
  assert sources["kk-en"].size("test") is None
  english, kazakh = CldrText("kk", "test", 3)[5]
  assert sources["kk-en"].text("test")[5] == (kazakh, english)
  assert sources["en-kk"].text("test")[5] == (english, kazakh)
  found = examples(
    open_corpus(mixture), part="validation", pair="zh-en", limit=4
  )
  assert found[3] == CldrText("zh", "validation", 3)[3][::-1]


def test_cldr_text_is_made_once_for_both_directions(monkeypatch):
  made = []

  def make(self, index):
    made.append(index)
    return "one", "eins"

  monkeypatch.setattr(CldrText, "__getitem__", make)
  mixture = cldr_30("v", seed=3, temperature=5.0, languages=("de",))
  sources = parallel_sources(mixture)
  for pair in ("en-de", "de-en"):
    for index in range(256):
      sources[pair].text("train")[index]
  assert made == list(range(256))


def test_cldr_of_some_languages():
  for languages in (("fi", "de"), ["fi", "en", "de"]):
    mixture = cldr_30("v", seed=3, temperature=5.0, languages=languages)
    pairs = sorted(parallel_sources(mixture))
    assert pairs == ["de-en", "en-de", "en-fi", "fi-en"]


def test_cldr_of_languages_that_cannot_be():
  with pytest.raises(
    TaskMoeError, match="unknown language 'dee': accepted are"
  ):
    cldr_30("v", seed=3, temperature=5.0, languages=("dee",))
  with pytest.raises(TaskMoeError, match="no language to pair with English"):
    cldr_30("v", seed=3, temperature=5.0, languages=("en",))


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["de-en", "en-fi"])
def test_seqio_gives_the_tokens_that_training_sees(
  folder, vocabulary_path, pair
):
  mixture = tsv(str(folder), vocabulary=vocabulary_path, temperature=5.0)
  task = seqio.TaskRegistry.get("tsv_" + pair.replace("-", "_"))
  dataset = task.get_dataset(split="train", shuffle=False)
  by_seqio = {
    (tuple(row["inputs"].tolist()), tuple(row["targets"].tolist()))
    for row in dataset.as_numpy_iterator()
  }
  only = seqio.Mixture("only", [(task, 1.0)])
  vocabulary = Vocabulary.load(vocabulary_path)
  batch = next(
    TrainBatches(
      open_corpus(only),
      vocabulary=vocabulary,
      task_space=task_space_of(open_corpus(mixture), "target"),
      batch_size=256,
      rows_per_task_group=1,
      source_length=150,
      target_length=140,
      pack=False,
      seed=1,
    )
  )
  by_us = {
    (tuple(source[source > 0].tolist()), tuple(target[target > 0].tolist()))
    for source, target in zip(
      batch["encoder_input_tokens"], batch["decoder_target_tokens"], strict=True
    )
  }
  assert len(by_us) > 50
  assert by_us == by_seqio
  target_id = vocabulary.target_id(pair.split("-")[1])
  assert {source[0] for source, _ in by_seqio} == {target_id}


@pytest.mark.expensive("it compiles or runs whole programs")
def test_seqio_mixes_and_packs(folder, vocabulary_path):
  mixture = tsv(str(folder), vocabulary=vocabulary_path, temperature=5.0)
  dataset = seqio.get_dataset(
    mixture_or_task_name=mixture.name,
    task_feature_lengths={"inputs": 90, "targets": 70},
    dataset_split="train",
    shuffle=True,
    seed=1,
    feature_converter=seqio.EncDecFeatureConverter(pack=True),
  )
  for batch in dataset.take(3).as_numpy_iterator():
    assert batch["encoder_input_tokens"].shape == (90,)
    assert np.max(batch["decoder_segment_ids"]) >= 1


def test_seqio_with_a_vocabulary_of_other_languages(folder, vocabulary_path):
  cldr_30(vocabulary_path, seed=1, temperature=5.0, languages=("kk",))
  task = seqio.TaskRegistry.get("cldr_en_kk")
  with pytest.raises(
    TaskMoeError, match=r"has no symbol <2kk>: .*`taskmoe vocab`"
  ):
    task.get_dataset(split="train", shuffle=False)


def test_seqio_tasks_without_a_vocabulary_give_text(folder):
  mixture = tsv(str(folder), vocabulary=None, temperature=5.0)
  (row,) = (
    mixture.tasks[0]
    .get_dataset(split="validation", shuffle=False)
    .take(1)
    .as_numpy_iterator()
  )
  english, german = CldrText("de", "train", 1)[0]
  assert row["inputs"].decode() == german
  assert row["targets"].decode() == english

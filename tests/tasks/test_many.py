import functools
import itertools

import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from taskmoe_jax.data.batches.batches import TrainBatches
from taskmoe_jax.data.corpus import task_space_of
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.seqio.sources import parallel_sources, rates
from taskmoe_jax.data.text.vocabulary_training import train_vocabulary
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.tasks.many import many, text
from taskmoe_jax.tasks.registered import registered
from taskmoe_jax.vocabulary import Vocabulary

_OPTIONS = {"vocabulary": None, "temperature": 5.0, "cleaning": None}
_MANY = {**_OPTIONS, "languages": None, "with_text": False}
# 110 codes, such as `qab`, that no one speaks.
_CODES = [f"q{a}{b}" for a in "abcdefghijk" for b in "abcdefghij"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """110 languages: 109 pairs with the first, and 5 without it."""
  folder = tmp_path_factory.mktemp("many")
  pairs = [(_CODES[0], code) for code in _CODES[1:]]
  pairs += list(itertools.pairwise(_CODES[1:7]))
  for first, second in pairs:
    lines = [f"{first} says {i}\t{second} sagt {i}" for i in range(3)]
    (folder / f"{first}-{second}.train.tsv").write_text("\n".join(lines))
  for code in _CODES[:3]:
    (folder / f"{code}.train.txt").write_text(f"{code} alone\n\nand more\n")
  (folder / f"{_CODES[0]}.dev.txt").write_text("dev alone\n")
  return folder


def test_many_languages_and_pairs(folder):
  mixture = many(str(folder), **_MANY)
  space = task_space_of(open_corpus(mixture), "target")
  assert len(space.languages) == len(space.tasks) == 110
  assert len(space.pairs) == 2 * 114
  assert rates(mixture) == pytest.approx(dict.fromkeys(space.pairs, 1 / 228))
  first, *_, last = _CODES[1], _CODES[2]
  assert parallel_sources(mixture)[f"{last}-{first}"].text("train")[1] == (
    f"{last} sagt 1",
    f"{first} says 1",
  )


def test_some_languages(folder):
  options = _MANY | {"languages": _CODES[:3]}
  pairs = parallel_sources(many(str(folder), **options))
  assert len(pairs) == 6
  with_text = many(str(folder), **options | {"with_text": True})
  assert sorted(set(parallel_sources(with_text)) - set(pairs)) == [
    f"{code}-{code}" for code in _CODES[:3]
  ]
  with pytest.raises(TaskMoeError, match=r"'xx': .* Set many\.languages"):
    many(str(folder), **_MANY | {"languages": ("xx",)})
  with pytest.raises(TaskMoeError, match="has no pair among qaa"):
    many(str(folder), **_MANY | {"languages": ("qaa",)})


def test_text_in_one_language_is_trained_on_like_all_other(folder):
  mixture = text(str(folder), **_OPTIONS)
  sources = parallel_sources(mixture)
  assert list(sources) == ["qaa-qaa", "qab-qab", "qac-qac"]
  assert sources["qaa-qaa"].text("train").read([0, 1]) == [
    ("", "qaa alone"),
    ("", "and more"),
  ]
  assert sources["qaa-qaa"].text("validation")[0] == ("", "dev alone")
  model = train_vocabulary(
    open_corpus(mixture), size=275, num_sentences=100, seed=0
  )
  vocabulary = Vocabulary(model)
  batch = next(
    TrainBatches(
      open_corpus(mixture),
      vocabulary=vocabulary,
      task_space=task_space_of(open_corpus(mixture), "target"),
      batch_size=3,
      rows_per_task_group=1,
      source_length=8,
      target_length=40,
      pack=False,
      seed=1,
    )
  )
  for row in range(3):
    source = batch["encoder_input_tokens"][row]
    target_ids = batch["decoder_target_tokens"][row]
    language = _CODES[batch["target_language"][row]]
    assert source.tolist() == [vocabulary.target_id(language), 1] + [0] * 6
    (target,) = vocabulary.decode([target_ids.tolist()])
    assert target in (f"{language} alone", "and more")


@pytest.mark.parametrize(
  ("name", "message"),
  [
    (None, r"has no file called xx\.\{train,dev,test\}\.txt"),
    ("en.valid.txt.gz", "a file of text is called xx"),
    ("en.train.text", "a file of text is called xx"),
    ("en.dev.txt.gz", r"en\.dev\.txt is the same part"),
  ],
)
def test_folders_of_text_that_cannot_be(tmp_path, name, message):
  if name:
    (tmp_path / "en.dev.txt").write_text("x\n")
    (tmp_path / name).write_text("x\n")
  with pytest.raises(TaskMoeError, match=message):
    text(str(tmp_path), **_OPTIONS)
  with pytest.raises(TaskMoeError, match=r"no folder .* Set text\.folder"):
    text(str(tmp_path / "nope"), **_OPTIONS)


# --- seqio tasks of others


def _columns(dataset):
  def split(line):
    first, second = tf.unstack(tf.strings.split(line, "|"), 2)
    return {"inputs": first, "targets": tf.strings.upper(second)}

  return dataset.map(split)


def _ids(dataset):
  return dataset.map(lambda line: {"inputs": [1], "targets": [2]})


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
  """Seqio tasks over lines and over a function, and their mixture."""
  monkeypatch.setenv("TASKMOE_CACHE", str(tmp_path / "cache"))
  (tmp_path / "lines.txt").write_text("eins|one\nzw\tei|two\ndrei|three\n")
  passing = seqio.Feature(seqio.PassThroughVocabulary(9))
  features = {"inputs": passing, "targets": passing}
  lines = seqio.TextLineDataSource({"train": str(tmp_path / "lines.txt")})
  calls = []

  def make(split, shuffle_files, seed=None):
    calls.append(split)
    return tf.data.Dataset.from_tensor_slices(["un|one", f"{split}|two"])

  function = seqio.FunctionDataSource(make, splits=("train", "test"))
  tokenise = [
    seqio.CacheDatasetPlaceholder(),
    seqio.preprocessors.tokenize,
    seqio.preprocessors.append_eos,
  ]
  for name, source, steps in (
    ("theirs_lines", lines, [_columns, *tokenise]),
    ("theirs_function", function, [_columns, *tokenise]),
    ("theirs_ids", lines, [_ids]),
  ):
    seqio.TaskRegistry.add(
      name, source=source, preprocessors=steps, output_features=features
    )
  seqio.MixtureRegistry.add(
    "theirs", [("theirs_lines", 3.0), ("theirs_function", 1.0)]
  )
  yield calls
  seqio.MixtureRegistry.remove("theirs")
  for name in ("theirs_lines", "theirs_function", "theirs_ids"):
    seqio.TaskRegistry.remove(name)


_PAIRS = {"theirs_lines": "de-en", "theirs_function": "fr-en"}


def _registered(name="theirs", **changes):
  options = {"modules": ("json",), "pairs": _PAIRS, "revision": ""}
  return registered(name, vocabulary=None, **options | changes)


@pytest.mark.slow
def test_text_of_seqio_tasks_registered_elsewhere(elsewhere):
  mixture = _registered()
  sources = parallel_sources(mixture)
  text = sources["de-en"].text("train")
  expected = [("eins", "ONE"), ("zw\tei", "TWO"), ("drei", "THREE")]
  assert text.read([0, 1, 2]) == expected
  assert sources["fr-en"].text("test")[1] == ("test", "TWO")
  assert rates(mixture) == {"de-en": 0.75, "fr-en": 0.25}
  assert task_space_of(open_corpus(mixture), "target").tasks == ("en",)


def test_it_is_copied_once_until_it_changes(elsewhere, tmp_path):
  for revision, copies in (("", 1), ("", 1), ("2", 2)):
    source = parallel_sources(_registered(revision=revision))["fr-en"]
    assert len(source.text("train")) == 2
    assert elsewhere == ["train"] * copies
  (tmp_path / "lines.txt").write_text("vier|four\n")
  text = parallel_sources(_registered())["de-en"].text("train")
  assert text.read(range(len(text))) == [("vier", "FOUR")]


@pytest.mark.slow
def test_a_seqio_task_over_tfds(elsewhere, tmp_path):
  lines = {"de": ["eins", "zwei"], "en": ["one", "two"]}
  tfds.dataset_builders.store_as_tfds_dataset(
    "spoken",
    version="1.0.0",
    features=tfds.features.Translation(languages=("de", "en")),
    split_datasets={"train": tf.data.Dataset.from_tensor_slices(lines)},
    data_dir=tmp_path,
    download_config=tfds.download.DownloadConfig(num_shards=1),
    disable_shuffling=True,
  )
  name = "theirs_tfds"
  keys = {"inputs": "de", "targets": "en"}
  seqio.TaskRegistry.add(
    name,
    source=seqio.TfdsDataSource("spoken:1.0.0", tfds_data_dir=str(tmp_path)),
    preprocessors=[
      functools.partial(seqio.preprocessors.rekey, key_map=keys),
      seqio.preprocessors.tokenize,
    ],
    output_features=seqio.get_mixture_or_task("theirs_ids").output_features,
  )
  try:
    sources = parallel_sources(_registered(name, pairs={name: "de-en"}))
    text = sources["de-en"].text("train")
  finally:
    seqio.TaskRegistry.remove(name)
  assert text.read([1, 0]) == [("zwei", "two"), ("eins", "one")]


def test_one_seqio_task(elsewhere):
  assert rates(_registered("theirs_function")) == {"fr-en": 1.0}


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    (
      {"name": "thiers"},
      r"'thiers': .*'theirs'\?\)\. Is its module imported\?",
    ),
    ({"modules": ("no.such",)}, r"cannot import 'no\.such' .*PYTHONPATH"),
    ({"pairs": {}}, r"has no pair: registered\.pairs has none\. Set it there"),
    ({"pairs": {**_PAIRS, "theirs_lines": "de"}}, "'de' is not a pair"),
  ],
)
def test_what_registered_cannot_read(elsewhere, changes, message):
  with pytest.raises(TaskMoeError, match=message):
    _registered(**changes)


def test_a_task_without_text(elsewhere):
  mixture = _registered("theirs_ids", pairs={"theirs_ids": "de-en"})
  with pytest.raises(TaskMoeError) as error:
    rates(mixture)
  assert str(error.value).startswith(
    "seqio task 'theirs_ids' does not give text as 'inputs' before its"
    " seqio.preprocessors.tokenize step, but TensorSpec(shape=(1,)"
  )

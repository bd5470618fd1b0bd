import json
import os
import subprocess

import numpy as np
import pytest
import rich.console

from taskmoe_jax.data.cache.reading import open_cache, verify_cache
from taskmoe_jax.data.cache.writing import write_cache
from taskmoe_jax.data.corpus import examples, samples
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.text.vocabulary_training import VocabularySource
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary


class EndlessText:
  def __getitem__(self, index):
    return f"haus {index}", f"maison {index}"


@pytest.fixture(scope="module")
def mixture(small_corpus):
  from taskmoe_jax.tasks.tsv import tsv

  return tsv(str(small_corpus), vocabulary="none.model", temperature=2.0)


@pytest.fixture(scope="module")
def write(small_vocabulary):
  """Writes a cache whose train parts are of 36 examples: 3 shards of 15."""

  def make(mixture, folder, *, vocabulary=None, **options):
    lines = []
    console = rich.console.Console(force_terminal=False, width=200)
    console.print = lambda *words, **_: lines.append(" ".join(words))
    finished = write_cache(
      mixture=mixture,
      vocabulary=VocabularySource(
        path=str(vocabulary or small_vocabulary),
        size=1,
        num_sentences=1,
        seed=0,
      ),
      folder=str(folder),
      console=console,
      **{"endless_examples": None, "examples_per_shard": 15, **options},
    )
    return finished, lines

  return make


@pytest.fixture(scope="module")
def written(mixture, write, tmp_path_factory):
  folder = tmp_path_factory.mktemp("cache") / "cache"
  finished, lines = write(mixture, folder)
  assert finished
  assert lines[-1].startswith(f"cache in {folder}: 4 pairs, 21 files, 0.0")
  return folder


@pytest.fixture
def cache(written, tmp_path):
  """A copy that a test may damage."""
  folder = tmp_path / "cache"
  subprocess.run(["cp", "-r", written, folder], check=True)
  return folder


def test_batches_are_those_of_the_live_text(
  mixture, written, small_vocabulary, batches_of_vocabulary
):
  vocabulary = Vocabulary.load(small_vocabulary)
  live = batches_of_vocabulary(mixture, vocabulary)
  cached = batches_of_vocabulary(
    open_cache(written, temperature=None), vocabulary
  )
  for _ in range(40):
    batch, other = next(live), next(cached)
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)
      assert batch[name].dtype == other[name].dtype
  assert live.state() == cached.state()


@pytest.fixture
def batches_of_vocabulary():
  from taskmoe_jax.data.batches.batches import TrainBatches

  def make(mixture, vocabulary):
    corpus = open_corpus(mixture)
    return TrainBatches(
      corpus,
      vocabulary=vocabulary,
      task_space=TaskSpace.from_pairs(corpus.pairs, "target"),
      batch_size=6,
      rows_per_task_group=2,
      source_length=40,
      target_length=31,
      pack=True,
      seed=5,
    )

  return make


def test_text_is_untouched(mixture, written):
  live, cached = open_corpus(mixture), open_cache(written, temperature=None)
  assert cached.pairs == live.pairs
  assert cached.rates == pytest.approx(live.rates)
  assert (live.origin, cached.origin) == (
    "live from seqio mixture 'tsv'",
    f"from the cache {written}",
  )
  for pair in live.pairs:
    assert cached.parts(pair) == live.parts(pair)
    for part in live.parts(pair):
      options = {"part": part, "pair": pair, "limit": None}
      assert cached.size(pair, part) == live.size(pair, part)
      assert examples(cached, **options) == examples(live, **options)
  assert samples(cached, 3) == samples(live, 3)


def test_both_directions_are_tokenised_once(written):
  manifest = json.loads((written / "manifest.json").read_text())
  assert list(manifest["texts"]) == ["en-de", "en-fr"]
  assert manifest["pairs"]["de-en"]["text"] == "en-de"
  assert manifest["pairs"]["de-en"]["swapped"]
  names = sorted(path.name for path in written.glob("en-de/train*.ids.npy"))
  assert names == [f"train-0000{number}.ids.npy" for number in range(3)]
  ids = np.load(written / "en-de" / "train-00000.ids.npy")
  assert ids.dtype == np.uint16


def test_directions_with_texts_of_their_own(mixture_of, write, tmp_path):
  there, back = [("haus", "house")] * 3, [("dog", "hund")] * 2
  mixture = mixture_of({"de-en": {"train": there}, "en-de": {"train": back}})
  write(mixture, tmp_path)
  cached = open_cache(tmp_path, temperature=None)
  assert list(cached.text("de-en", "train")) == there
  assert list(cached.text("en-de", "train")) == back


def test_other_temperature(written, mixture):
  corpus = open_cache(written, temperature=1.0)
  assert corpus.rates == pytest.approx(dict.fromkeys(corpus.pairs, 0.25))
  with pytest.raises(TaskMoeError, match=r"Set open_cache\.temperature"):
    open_cache(written, temperature=0.0)


def test_endless_text(mixture_of, write, tmp_path):
  mixture = mixture_of(
    {"de-fr": {"train": EndlessText(), "test": EndlessText()}}
  )
  with pytest.raises(TaskMoeError, match=r"Set write_cache\.endless_examples"):
    write(mixture, tmp_path / "none")
  write(mixture, tmp_path / "cache", endless_examples=20)
  corpus = open_cache(tmp_path / "cache", temperature=None)
  assert corpus.size("de-fr", "train") == corpus.size("de-fr", "test") == 20
  assert corpus.text("de-fr", "train")[17] == ("haus 17", "maison 17")


def test_a_part_or_pair_that_there_is_not(written):
  corpus = open_cache(written, temperature=None)
  with pytest.raises(TaskMoeError, match="unknown part of en-de 'dev': accept"):
    corpus.text("en-de", "dev")
  with pytest.raises(TaskMoeError, match=r"unknown pair 'en-fi': .* the cache"):
    corpus.size("en-fi", "train")
  with pytest.raises(IndexError):
    corpus.text("en-de", "test")[-1]


def test_another_vocabulary(written):
  corpus = open_cache(written, temperature=None)
  other = Vocabulary(corpus.vocabulary.model, "other.model")
  other.__dict__["checksum"] = "0123456789abcdef"
  with pytest.raises(TaskMoeError) as error:
    corpus.train_examples("en-de", other)
  checksum = corpus.vocabulary.checksum[:12]
  assert str(error.value) == (
    f"the cache '{written}' was tokenised with the vocabulary of checksum"
    f" {checksum}, and the run's 'other.model' has 0123456789ab. Set VOCABULARY"
    " to the cache's vocabulary.model, or make a cache with the run's."
  )


@pytest.mark.parametrize(
  "name", ["en-de/train-00001.ids.npy", "en-fr/test-00000.offsets.npy"]
)
def test_damage_is_refused_by_name_and_mended(
  cache, mixture, write, batches_of_vocabulary, name
):
  assert verify_cache(cache) == sum(
    path.stat().st_size
    for pattern in ("*/*.npy", "vocabulary.model")
    for path in cache.glob(pattern)
  )
  path = cache / name
  whole = path.read_bytes()
  changed = bytearray(whole)
  changed[-3] ^= 1
  for content, reason in (
    (whole[:-1], f"{len(whole) - 1} bytes and not {len(whole)}"),
    (bytes(changed), "its checksum is another"),
    (None, "No such file or directory"),
  ):
    path.unlink()
    if content is not None:
      path.write_bytes(content)
    with pytest.raises(TaskMoeError) as error:
      open_cache(cache, temperature=None)
    assert str(error.value) == (
      f"{path}: this file of the cache is damaged ({reason}). Run `taskmoe"
      " cache` again, which writes damaged parts anew, or copy it again."
    )
    _, lines = write(mixture, cache)
    assert len(lines) == 2  # the shard that was damaged, and no other
    assert path.read_bytes() == whole
    assert open_cache(cache, temperature=None).pairs


def test_a_byte_changed_behind_our_back_is_found_by_verify(cache):
  open_cache(cache, temperature=None)
  path = cache / "en-de" / "train-00000.ids.npy"
  status, content = path.stat(), bytearray(path.read_bytes())
  content[-1] ^= 4
  path.write_bytes(content)
  os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
  open_cache(cache, temperature=None)
  with pytest.raises(TaskMoeError, match=r"en-de/train-00000\.ids\.npy: this"):
    verify_cache(cache)


def test_no_cache_half_a_cache_and_one_of_another_format(cache, tmp_path):
  with pytest.raises(TaskMoeError, match=r"no cache at .* or set CACHE to one"):
    open_cache(tmp_path / "nowhere", temperature=None)
  manifest = cache / "manifest.json"
  content = manifest.read_text()
  manifest.write_text(content.replace('"format": 1', '"format": 99'))
  with pytest.raises(TaskMoeError, match="is of format 99, and this version"):
    open_cache(cache, temperature=None)
  manifest.write_text(content[:50])
  with pytest.raises(TaskMoeError, match=r"manifest\.json: this file of the"):
    open_cache(cache, temperature=None)
  manifest.unlink()
  with pytest.raises(TaskMoeError, match=r"is unfinished: .* resumes where it"):
    open_cache(cache, temperature=None)


def test_writing_with_other_settings_is_refused(
  cache, mixture, mixture_of, write, tmp_path, vocabulary_of_letters
):
  with pytest.raises(TaskMoeError, match="begun with another vocabulary: "):
    write(mixture, cache, vocabulary=vocabulary_of_letters)
  with pytest.raises(TaskMoeError, match="examples_per_shard: 15, and now it "):
    write(mixture, cache, examples_per_shard=16)
  text = [("haus", "house")] * 3
  write(mixture_of({"de-en": {"train": text}}), tmp_path / "one")
  text[1] = ("hund", "dog")
  with pytest.raises(TaskMoeError, match="another train text of de-en: 3 exam"):
    write(mixture_of({"de-en": {"train": text}}), tmp_path / "one")
  with pytest.raises(TaskMoeError, match="'tsv' is a cache already"):
    write(open_cache(cache, temperature=None), tmp_path / "two")


@pytest.fixture
def vocabulary_of_letters(tmp_path, mixture):
  from taskmoe_jax.data.text.vocabulary_training import train_vocabulary

  path = tmp_path / "other.model"
  path.write_bytes(
    train_vocabulary(open_corpus(mixture), size=290, num_sentences=100, seed=1)
  )
  return path

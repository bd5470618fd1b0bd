import pytest
from etils import epath

from taskmoe_jax.data.cldr.generator import CldrText
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.text import vocabulary_training
from taskmoe_jax.data.text.vocabulary_training import (
  VocabularySource,
  make_vocabulary,
  train_vocabulary,
)
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.tasks.cldr import cldr_30
from taskmoe_jax.vocabulary import Vocabulary


def _mixture():
  return cldr_30(
    "none.model", seed=4, temperature=5.0, languages=("de", "kk", "zh")
  )


@pytest.fixture(scope="module")
def model():
  return train_vocabulary(
    open_corpus(_mixture()), size=900, num_sentences=3000, seed=2
  )


@pytest.fixture(scope="module")
def vocabulary(model):
  return Vocabulary(model)


@pytest.mark.slow
def test_size_and_special_pieces(vocabulary):
  processor = vocabulary._processor
  assert len(vocabulary) == 900
  assert processor.pad_id() == 0
  assert processor.eos_id() == 1
  assert processor.unk_id() == 2
  assert processor.bos_id() == -1
  symbols = [vocabulary.target_id(code) for code in ("en", "de", "kk", "zh")]
  assert len(set(symbols)) == 4
  assert min(symbols) > 2
  with pytest.raises(TaskMoeError, match="no symbol <2fr>"):
    vocabulary.target_id("fr")


@pytest.mark.slow
def test_the_same_arguments_give_the_same_bytes(model):
  options = {"size": 900, "num_sentences": 3000}
  assert train_vocabulary(open_corpus(_mixture()), **options, seed=2) == model
  assert train_vocabulary(open_corpus(_mixture()), **options, seed=3) != model


@pytest.mark.slow
@pytest.mark.parametrize("language", ["de", "kk", "zh", "ru", "hi"])
def test_every_character_comes_back(vocabulary, language):
  # Russian and Hindi are not in the vocabulary: they come as bytes.
  text = CldrText(language, "test", 1)
  lines = [side for index in range(150) for side in text[index]]
  assert vocabulary.decode(vocabulary.encode(lines)) == lines


@pytest.mark.parametrize(
  "line",
  [
    "12\u00a0345,6\u202f€",
    "  two  spaces ",
    "ﬁ e\u0301 Ａ",
    "😀\t\u2028",
    "<2de>",
  ],
)
def test_nothing_is_normalised(vocabulary, line):
  assert vocabulary.decode(vocabulary.encode([line])) == [line]


def test_nothing_is_unknown(vocabulary):
  (ids,) = vocabulary.encode(["ગુજરાતી 😀"])
  assert 2 not in ids


def test_digits_stand_alone(vocabulary):
  pieces = [vocabulary._processor.id_to_piece(i) for i in range(900)]
  numbers = [p for p in pieces if any(c.isdigit() for c in p) and "<" not in p]
  assert len(numbers) >= 10
  assert all(sum(c.isdigit() for c in piece) == 1 for piece in numbers)


def test_common_words_are_pieces(vocabulary):
  (ids,) = vocabulary.encode(["kilometers"])
  assert len(ids) < 6


def test_sample_has_both_sides_at_the_rates(mixture_of, monkeypatch):
  texts = {
    "en-de": {"train": [(f"e{i}", f"d{i}") for i in range(900)]},
    "fr-en": {"train": [(f"f{i}", f"n{i}") for i in range(100)]},
    "de-fr": {"test": [("never", "never")]},
  }
  corpus = open_corpus(mixture_of(texts, temperature=2.0))  # 30 to 10
  lines = list(vocabulary_training._sample(corpus, 200, 1))
  first_letters = dict.fromkeys("edfn", 0)
  for line in lines:
    first_letters[line[0]] += 1
  assert first_letters == {"e": 75, "d": 75, "f": 25, "n": 25}
  assert len(set(lines)) == 200
  assert lines != list(vocabulary_training._sample(corpus, 200, 2))


def test_text_in_one_language_has_targets_alone(mixture_of):
  texts = {"xx-xx": {"train": [("", f"line {i}") for i in range(90)]}}
  corpus = open_corpus(mixture_of(texts))
  lines = list(vocabulary_training._sample(corpus, 60, 1))
  assert len(set(lines)) == 60
  assert "" not in lines


def test_both_directions_do_not_sample_the_same():
  mixture = cldr_30("none.model", seed=4, temperature=5.0, languages=("de",))
  corpus = open_corpus(mixture)
  lines = list(vocabulary_training._sample(corpus, 400, 1))
  assert len(lines) == 400
  assert len(set(lines)) > 360


def test_size_beyond_the_text(mixture_of):
  mixture = mixture_of({"en-de": {"train": [("a b", "c d")] * 9}})
  with pytest.raises(TaskMoeError) as error:
    train_vocabulary(open_corpus(mixture), size=5000, num_sentences=18, seed=1)
  limit = str(error.value).split("at most ")[1].split()[0]
  assert str(error.value) == (
    "a vocabulary of 5000 pieces is too large for this text: at most"
    f" {limit} can be made of it. Set VOCAB_SIZE, or raise VOCAB_SENTENCES."
  )
  model = train_vocabulary(
    open_corpus(mixture), size=int(limit), num_sentences=18, seed=1
  )
  assert len(Vocabulary(model)) == int(limit)


def test_size_below_the_alphabet(mixture_of):
  mixture = mixture_of({"en-de": {"train": [("a b", "c d")] * 9}})
  with pytest.raises(TaskMoeError) as error:
    train_vocabulary(open_corpus(mixture), size=200, num_sentences=18, seed=1)
  assert str(error.value).startswith("a vocabulary of 200 pieces is too small")
  assert str(error.value).endswith("Set VOCAB_SIZE.")


def test_too_few_sentences(mixture_of):
  mixture = mixture_of({"en-de": {"train": [("a b", "c d")] * 9}})
  with pytest.raises(
    TaskMoeError, match=r"1 sentences are too few .* Set VOCAB"
  ):
    train_vocabulary(open_corpus(mixture), size=300, num_sentences=1, seed=1)


def test_empty_corpus(mixture_of):
  mixture = mixture_of({"en-de": {"train": []}})
  with pytest.raises(TaskMoeError, match=r"train part of en-de .* is empty"):
    train_vocabulary(open_corpus(mixture), size=300, num_sentences=10, seed=1)


@pytest.fixture
def small_mixture(mixture_of):
  return mixture_of(
    {"en-de": {"train": [("the cat and the hat", "den hat die katze")] * 9}}
  )


def _source(path=None, **changes):
  options = {"size": 275, "num_sentences": 18, "seed": 1, **changes}
  return VocabularySource(path=path, **options)


def test_vocabulary_is_made_once_in_the_run_directory(small_mixture, tmp_path):
  default = epath.Path(tmp_path / "run" / "vocabulary.model")
  made = _source().load_or_train(open_corpus(small_mixture), default)
  assert len(made) == 275
  assert [path.name for path in default.parent.iterdir()] == [default.name]
  # One that is there stays, whatever else is asked for.
  again = _source(size=274).load_or_train(open_corpus(small_mixture), default)
  assert again.checksum == made.checksum


def test_vocabulary_with_a_path_must_be_there(small_mixture, tmp_path):
  path = str(tmp_path / "mine.model")
  default = epath.Path(tmp_path / "default.model")
  with pytest.raises(TaskMoeError, match=rf"no vocabulary at '{path}'"):
    _source(path).load_or_train(open_corpus(small_mixture), default)
  _source(path).write(open_corpus(small_mixture), default)
  found = _source(path).load_or_train(open_corpus(small_mixture), default)
  assert found.origin == path
  assert not default.exists()


def test_another_vocabulary_is_not_overwritten(small_mixture, tmp_path):
  options = {"mixture": small_mixture, "run_dir": str(tmp_path)}
  path = make_vocabulary(vocabulary=_source(), **options)
  model = path.read_bytes()
  assert make_vocabulary(vocabulary=_source(), **options) == path
  with pytest.raises(TaskMoeError, match="is another vocabulary than this"):
    make_vocabulary(vocabulary=_source(size=274), **options)
  assert path.read_bytes() == model


def test_a_place_that_cannot_be_written(small_mixture, tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(
    TaskMoeError,
    match=r"cannot write the vocabulary '.*/file/run/vocabulary\.model' \(Not a"
    r" directory\)\. Set VOCABULARY or RUN_DIR to another place\.",
  ):
    make_vocabulary(
      vocabulary=_source(),
      mixture=small_mixture,
      run_dir=str(tmp_path / "file" / "run"),
    )

import itertools

import pytest
import seqio

from taskmoe_jax.data.corpus import task_space_of
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.data.seqio.sources import (
  ParallelSource,
  parallel_sources,
  rates,
)
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.task_space import TaskBy

_TEXT = [("one", "eins"), ("two", "zwei"), ("three", "drei"), ("four", "vier")]


class EndlessText:
  def __getitem__(self, index):
    return f"a{index}", f"b{index}"


def _rows(dataset):
  return [
    (row["inputs"].decode(), row["targets"].decode())
    for row in dataset.as_numpy_iterator()
  ]


@pytest.fixture
def source():
  return ParallelSource(
    "en", "de", {"train": lambda: _TEXT, "validation": EndlessText}
  )


@pytest.fixture
def swapped():
  return ParallelSource("de", "en", {"train": lambda: _TEXT}, swapped=True)


def test_source_knows_its_direction(source, swapped):
  assert (source.source_language, source.target_language) == ("en", "de")
  assert (source.pair, swapped.pair) == ("en-de", "de-en")
  assert source.text("train")[2] == ("three", "drei")
  assert swapped.text("train")[2] == ("drei", "three")


def test_size_is_none_for_endless_text(source, swapped):
  assert source.size("train") == swapped.size("train") == 4
  assert source.size("validation") is None
  assert source.num_input_examples("train") == 4
  assert source.num_input_examples("validation") is None


def test_part_that_there_is_not(source):
  message = (
    "unknown part of en-de 'test': accepted are train, validation. Set --part,"
    " or add the files."
  )
  for method in (source.text, source.size):
    with pytest.raises(TaskMoeError) as error:
      method("test")
    assert str(error.value) == message


def test_nothing_is_opened_before_it_is_asked_for():
  def fail():
    raise AssertionError

  ParallelSource("en", "de", {"train": fail})


def test_as_a_seqio_source(source, swapped):
  dataset = source.get_dataset("train", shuffle=False)
  assert _rows(dataset) == _TEXT == _rows(dataset)
  assert _rows(swapped.get_dataset("train", shuffle=False)) == [
    (target, source) for source, target in _TEXT
  ]


@pytest.mark.slow
def test_seqio_shuffles_by_the_seed(source):
  orders = [_rows(source.get_dataset("train", seed=seed)) for seed in range(6)]
  assert all(sorted(order) == sorted(_TEXT) for order in orders)
  assert len(set(map(tuple, orders))) > 1
  assert orders[3] == _rows(source.get_dataset("train", seed=3))


def test_seqio_takes_shards(source):
  shards = [
    _rows(
      source.get_dataset(
        "train", seed=1, shard_info=seqio.ShardInfo(index=index, num_shards=3)
      )
    )
    for index in range(3)
  ]
  assert [len(shard) for shard in shards] == [2, 1, 1]
  assert sorted(itertools.chain(*shards)) == sorted(_TEXT)


def test_endless_dataset_begins_at_the_beginning_each_time(source):
  dataset = source.get_dataset("validation").take(2)
  assert _rows(dataset) == [("a0", "b0"), ("a1", "b1")] == _rows(dataset)


def test_what_a_mixture_holds(mixture_of):
  parts = {"train": _TEXT}
  mixture = mixture_of({"en-de": parts, "fr-en": parts, "de-en": parts})
  sources = parallel_sources(mixture)
  assert list(sources) == ["de-en", "en-de", "fr-en"]
  assert all(pair == source.pair for pair, source in sources.items())
  space = task_space_of(open_corpus(mixture), "pair")
  assert space.languages == ("de", "en", "fr")
  assert space.pairs == ("de-en", "en-de", "fr-en")
  assert space.task_by is TaskBy.PAIR
  with pytest.raises(TaskMoeError, match="unknown task_by 'targte'"):
    task_space_of(open_corpus(mixture), "targte")


def test_rates_follow_the_temperature(mixture_of):
  texts = {
    "en-de": {"train": _TEXT * 8},
    "de-en": {"train": _TEXT * 2},
    "fr-de": {"test": _TEXT},
  }
  # 32 and 8 examples; zero-shot fr-de has no share.
  assert rates(mixture_of(texts)) == {"de-en": 0.2, "en-de": 0.8}
  # 32^(1/2) is twice 8^(1/2).
  assert rates(mixture_of(texts, temperature=2.0)) == pytest.approx(
    {"de-en": 1 / 3, "en-de": 2 / 3}
  )


def test_endless_pairs_have_equal_rates(mixture_of):
  parts = {"train": EndlessText()}
  mixture = mixture_of({"en-de": parts, "de-en": parts}, temperature=5.0)
  assert rates(mixture) == {"de-en": 0.5, "en-de": 0.5}


def test_seqio_samples_at_the_same_rates(mixture_of):
  texts = {
    "en-de": {"train": [("a", "b")] * 400},
    "de-en": {"train": [("b", "a")] * 100},
  }
  mixture = mixture_of(texts)
  sampled = {
    task.source.pair: mixture.get_rate(task) / mixture.total_rate
    for task in mixture.tasks
  }
  assert sampled == pytest.approx(rates(mixture))


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_that_cannot_be(mixture_of, temperature):
  with pytest.raises(TaskMoeError, match=r"is not above 0: .* TEMPERATURE\."):
    mixture_of({"en-de": {"train": _TEXT}}, temperature=temperature)


def test_empty_corpus(mixture_of):
  mixture = mixture_of({"en-de": {"train": []}, "de-en": {"train": _TEXT}})
  with pytest.raises(TaskMoeError) as error:
    rates(mixture)
  assert str(error.value) == (
    "the train part of en-de in mixture 'made_in_test' is empty: give it text,"
    " or remove it."
  )


def test_mixture_without_training_text(mixture_of):
  mixture = mixture_of({"en-de": {"test": _TEXT}})
  with pytest.raises(TaskMoeError, match="no pair of mixture 'made_in_test'"):
    rates(mixture)


def test_rate_of_nought(mixture_of):
  task = mixture_of({"en-de": {"train": _TEXT}}).tasks[0]
  mixture = seqio.Mixture("nought", [(task, 0.0)])
  with pytest.raises(TaskMoeError, match=r"'made_in_test_en_de' has rate 0\.0"):
    rates(mixture)


def test_seqio_task_that_reads_something_else(mixture_of):
  feature = seqio.Feature(seqio.PassThroughVocabulary(5))
  task = seqio.Task(
    "stories",
    source=seqio.TextLineDataSource({"train": "none.txt"}),
    output_features={"inputs": feature, "targets": feature},
  )
  mixture = seqio.Mixture("bedtime", [(task, 1.0)])
  with pytest.raises(TaskMoeError) as error:
    parallel_sources(mixture)
  assert str(error.value) == (
    "seqio task 'stories' of mixture 'bedtime' reads from a TextLineDataSource,"
    " which does not say of which pair it is. Include mixtures/registered.gin"
    " and set registered.pairs."
  )


def test_two_seqio_tasks_of_one_pair(mixture_of):
  first = mixture_of({"en-de": {"train": _TEXT}}).tasks[0]
  second = seqio.Task(
    "again", source=first.source, output_features=first.output_features
  )
  mixture = seqio.Mixture("both", [(first, 1.0), (second, 1.0)])
  with pytest.raises(TaskMoeError) as error:
    task_space_of(open_corpus(mixture), "target")
  assert str(error.value) == (
    "seqio tasks 'again' and 'made_in_test_en_de' of mixture 'both' are both"
    " en-de: put a pair's text into one seqio task."
  )

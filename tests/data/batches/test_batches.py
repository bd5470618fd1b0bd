import collections
import itertools
import json

import numpy as np
import pytest

from taskmoe_jax.data.corpus import task_space_of
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.task_space import TaskSpace

_PACKED_SHAPES = {
  "encoder_input_tokens": (6, 31),
  "encoder_segment_ids": (6, 31),
  "encoder_positions": (6, 31),
  "decoder_input_tokens": (6, 37),
  "decoder_target_tokens": (6, 37),
  "decoder_loss_weights": (6, 37),
  "decoder_segment_ids": (6, 37),
  "decoder_positions": (6, 37),
  "source_language": (6,),
  "target_language": (6,),
}


def _take(iterator, count):
  return list(itertools.islice(iterator, count))


def _assert_same(batches, others):
  assert len(batches) == len(others) > 0
  for batch, other in zip(batches, others, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


@pytest.mark.parametrize("pack", [True, False])
def test_batches_keep_the_contract(mixture, batches_of, pack):
  (batch,) = _take(batches_of(mixture, pack=pack), 1)
  shapes = {
    name: shape
    for name, shape in _PACKED_SHAPES.items()
    if pack or not name.endswith(("segment_ids", "positions"))
  }
  assert {name: array.shape for name, array in batch.items()} == shapes
  for name, array in batch.items():
    weights = name == "decoder_loss_weights"
    assert array.dtype == (np.float32 if weights else np.int32), name


def test_rows_are_of_the_languages_they_say(mixture_of, batches_of):
  mixture = mixture_of(
    {
      "en-de": {"train": [("a", "b")]},
      "de-en": {"train": [("b", "a")]},
      "en-fr": {"train": [("a", "c")]},
    }
  )
  space = TaskSpace(("fr", "en", "de"), ("en-de", "en-fr", "de-en"))
  batch = next(batches_of(mixture, pack=False, task_space=space))
  rows = {
    (int(s), int(t), tuple(i[:3].tolist()), tuple(o[:2].tolist()))
    for s, t, i, o in zip(
      batch["source_language"],
      batch["target_language"],
      batch["encoder_input_tokens"],
      batch["decoder_target_tokens"],
      strict=True,
    )
  }
  assert rows == {
    (1, 2, (4, 10, 1), (11, 1)),
    (2, 1, (3, 11, 1), (10, 1)),
    (1, 0, (5, 10, 1), (12, 1)),
  }


@pytest.mark.parametrize("task_by", ["target", "source", "pair"])
def test_groups_of_rows_have_one_task(mixture, batches_of, task_by):
  space = task_space_of(open_corpus(mixture), task_by)
  batches = _take(
    batches_of(mixture, task_space=space, batch_size=12, rows_per_task_group=3),
    40,
  )
  pairs_in_group = set()
  tasks_seen = set()
  for batch in batches:
    sides = batch["source_language"], batch["target_language"]
    tasks = space.task_table[sides].reshape(4, 3)
    assert (tasks == tasks[:, :1]).all()
    tasks_seen.update(tasks[:, 0].tolist())
    for group in space.pair_table[sides].reshape(4, 3):
      pairs_in_group.add(len(set(group.tolist())))
  assert tasks_seen == set(range(len(space.tasks)))
  assert (max(pairs_in_group) > 1) == (task_by != "pair")


def test_the_state_counts_what_the_rows_hold(mixture, batches_of):
  batches = batches_of(mixture)
  counted = collections.Counter()
  for batch in _take(batches, 30):
    space = task_space_of(open_corpus(mixture), "target")
    pairs = space.pair_table[batch["source_language"], batch["target_language"]]
    for pair, ids in zip(pairs, batch["encoder_segment_ids"], strict=True):
      counted[space.pairs[pair]] += int(ids.max())
  assert counted == {
    pair: position["examples"]
    for pair, position in batches.state()["pairs"].items()
  }
  assert batches.stats["examples"] == sum(counted.values())


def test_rates_hold_where_sentences_are_too_long(mixture_of, batches_of):
  long = [("a" * 40, "b"), ("a", "b" * 40), ("a", "b")] * 30
  short = [("a", "b")] * 90
  mixture = mixture_of({"en-de": {"train": long}, "de-en": {"train": short}})
  batches = batches_of(mixture)
  _take(batches, 200)
  pairs = batches.state()["pairs"]
  share = pairs["en-de"]["examples"] / batches.stats["examples"]
  assert share == pytest.approx(0.5, abs=0.01)
  assert pairs["de-en"]["skipped_too_long"] == 0
  skipped = pairs["en-de"]["skipped_too_long"]
  assert skipped == pytest.approx(2 * pairs["en-de"]["examples"], rel=0.1)
  assert batches.stats["skipped_too_long"] == skipped


def test_the_seed_decides_who_is_first(mixture, batches_of):
  firsts = {
    next(batches_of(mixture, seed=seed))["source_language"].tobytes()
    for seed in range(12)
  }
  assert len(firsts) > 1


@pytest.mark.slow
@pytest.mark.parametrize("pack", [True, False])
def test_goes_on_after_any_batch(mixture, batches_of, pack):
  options = {"batch_size": 24, "rows_per_task_group": 3, "pack": pack}
  unbroken = batches_of(mixture, **options)
  states, batches = [], []
  for _ in range(120):
    states.append(json.dumps(unbroken.state()))
    batches.append(next(unbroken))
  # All pairs begin a new epoch on the way, en-de with its 700 examples too.
  assert unbroken.state()["pairs"]["en-de"]["block"] > 2
  for start in [0, 1, 2, 7, 30, 31, 64, 65, 99, 117]:
    resumed = batches_of(mixture, **options)
    resumed.restore(json.loads(states[start]))
    _assert_same(_take(resumed, 3), batches[start : start + 3])
    assert resumed.state()["batches"] == start + 3


def test_a_resumed_run_may_have_other_batches_but_not_other_examples(
  mixture, batches_of, examples_in
):
  unbroken = _take(batches_of(mixture), 40)
  first = batches_of(mixture)
  start = _take(first, 20)
  resumed = batches_of(mixture, batch_size=12)
  resumed.restore(first.state())
  rest = _take(resumed, 10)
  seen = [
    sorted(itertools.chain(*map(examples_in, batches)))
    for batches in (unbroken, start + rest)
  ]
  assert seen[0] == seen[1]


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize("processes", [2, 4])
def test_rows_of_all_processes_are_the_batch_of_one(
  mixture, batches_of, processes, pack
):
  options = {"batch_size": 8, "rows_per_task_group": 2, "pack": pack}
  alone = batches_of(mixture, **options)
  shares = np.split(np.arange(8), processes)
  # A process may also have rows here and there.
  shares[0], shares[1] = (
    np.sort([*shares[0][1:], shares[1][0]]),
    np.array([shares[0][0], *shares[1][1:]]),
  )
  together = [batches_of(mixture, rows=rows, **options) for rows in shares]
  for _ in range(25):
    batch = next(alone)
    parts = [next(batches) for batches in together]
    for name, array in batch.items():
      for rows, part in zip(shares, parts, strict=True):
        np.testing.assert_array_equal(part[name], array[rows], err_msg=name)
  for batches in together:
    assert batches.state() == alone.state()
    assert batches.stats == alone.stats


def test_rows_may_be_a_slice_and_another_one_after_a_restart(
  mixture, batches_of
):
  first = batches_of(mixture, rows=slice(2, 6))
  _take(first, 3)
  expected = _take(batches_of(mixture), 4)[3]
  resumed = batches_of(mixture, rows=slice(1))
  resumed.restore(first.state())
  batch = next(resumed)
  assert batch["encoder_input_tokens"].shape == (1, 31)
  for name in batch:
    np.testing.assert_array_equal(batch[name], expected[name][:1])


def test_position_of_another_mixture(mixture, mixture_of, batches_of):
  other = mixture_of({"en-de": {"train": [("a", "b")]}})
  state = batches_of(other).state()
  with pytest.raises(TaskMoeError) as error:
    batches_of(mixture).restore(state)
  assert str(error.value) == (
    "the saved data position is of other pairs than this mixture: de-en, en-fr,"
    " fr-de, fr-en are in one of them only. Set MIXTURE to the one the run was"
    " started with, or start a new run."
  )


@pytest.mark.parametrize(
  ("changes", "message"),
  [
    ({"seed": 6}, "is of seed 5, and now there is seed 6: it would mean"),
    ({"pack": False}, "is of pack True, and now there is pack False: "),
    ({"source_length": 30}, r"of lengths \[31, 37\], and now .* \[30, 37\]: "),
  ],
)
def test_position_of_another_order(mixture, batches_of, changes, message):
  state = batches_of(mixture).state()
  with pytest.raises(TaskMoeError, match=message):
    batches_of(mixture, **changes).restore(state)


def test_position_of_other_text(mixture_of, batches_of):
  text = [("a", "b")] * 4
  state = batches_of(mixture_of({"en-de": {"train": text}})).state()
  with pytest.raises(TaskMoeError, match=r"sizes {'en-de': 4}, and now .*: 3}"):
    batches_of(mixture_of({"en-de": {"train": text[:3]}})).restore(state)


def test_where_the_text_is_from(mixture, batches_of):
  origin = "live from seqio mixture 'made_in_test'"
  assert batches_of(mixture).origin == origin
  assert batches_of(mixture, rows=slice(2)).origin == (
    f"{origin}, all of which every process tokenises; a cache (`taskmoe cache`)"
    " spares that"
  )


@pytest.mark.parametrize(
  ("batch_size", "group", "message"),
  [
    (8, 3, "a batch of 8 rows is not a multiple of 3, .* ROWS_PER_TASK_GROUP"),
    (2, 4, "a batch of 2 rows is not a multiple of 4, .* Set BATCH_SIZE or"),
    (0, 1, "a batch of 0 rows in groups of 1: both are at least 1"),
    (4, 0, "4 rows in groups of 0: .* Set BATCH_SIZE and ROWS_PER_TASK_GROUP"),
  ],
)
def test_batch_sizes_that_cannot_be(
  mixture, batches_of, batch_size, group, message
):
  with pytest.raises(TaskMoeError, match=message):
    batches_of(mixture, batch_size=batch_size, rows_per_task_group=group)


def test_task_space_without_a_pair(mixture, batches_of):
  space = TaskSpace(("en", "de"), ("en-de", "de-en"))
  with pytest.raises(
    TaskMoeError, match=r"unknown pair '.*fr.*': accepted are en-de"
  ):
    batches_of(mixture, task_space=space)


def test_fill_is_told(mixture_of, batches_of):
  # <2de> a b end: 4 of 8 tokens; c c c c c end: 6 of 10, and no second fits.
  mixture = mixture_of({"en-de": {"train": [("ab", "ccccc")]}})
  batches = batches_of(mixture, source_length=8, target_length=10)
  assert batches.stats == {"examples": 0, "skipped_too_long": 0}
  next(batches)
  assert batches.stats == {
    "examples": 6,
    "skipped_too_long": 0,
    "source_fill": pytest.approx(0.5),
    "target_fill": pytest.approx(0.6),
    "row_fill": pytest.approx(0.6),
  }

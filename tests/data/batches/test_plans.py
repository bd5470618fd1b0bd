"""Which examples stand in which rows: all that needs no tokens."""

import json

import numpy as np
import pytest

from taskmoe_jax.data.corpus import task_space_of
from taskmoe_jax.data.opening import open_corpus


@pytest.mark.slow
@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("pack", [True, False])
def test_rates_hold_in_examples_at_any_time(
  lengths_corpus, batches_of, group, pack
):
  batches = batches_of(
    lengths_corpus, batch_size=8, rows_per_task_group=group, pack=pack
  )
  # The 10,000 batches where both packing and grouping are on.
  for count in (150, 50, 9800 if pack and group > 1 else 50):
    for _ in range(count):
      batches.plan()
    examples = {
      pair: position["examples"]
      for pair, position in batches.state()["pairs"].items()
    }
    for pair, rate in lengths_corpus.rates.items():
      share = examples[pair] / sum(examples.values())
      assert share == pytest.approx(rate, abs=0.01), pair


def _ids(planned):
  return [(pair, row.examples.tolist()) for pair, row in planned]


@pytest.mark.slow
@pytest.mark.parametrize("pack", [True, False])
def test_no_example_is_skipped_or_seen_twice_wherever_it_is_killed(
  lengths_corpus, batches_of, pack
):
  options = {"batch_size": 12, "rows_per_task_group": 3, "pack": pack}
  unbroken = batches_of(lengths_corpus, **options)
  expected = [_ids(unbroken.plan()) for _ in range(300)]
  generator = np.random.default_rng(0)
  found, state = [], batches_of(lengths_corpus, **options).state()
  while len(found) < 300:  # each life is killed after a few batches
    life = batches_of(lengths_corpus, **options)
    life.restore(json.loads(json.dumps(state)))
    for _ in range(generator.integers(1, 9)):
      found.append(_ids(life.plan()))
    state = life.state()
  assert found[:300] == expected


@pytest.mark.parametrize("tasks", [1, 2, 4])
def test_a_device_has_at_most_so_many_tasks(lengths_corpus, batches_of, tasks):
  # 4 devices of 8 rows each.
  batches = batches_of(
    lengths_corpus, batch_size=32, rows_per_task_group=8 // tasks
  )
  space = task_space_of(open_corpus(lengths_corpus), "target")
  most = 0
  for _ in range(60):
    rows = [space.task_of_pair(pair) for pair, _ in batches.plan()]
    most = max(most, *(len(set(rows[i : i + 8])) for i in range(0, 32, 8)))
  assert most == min(tasks, 3)


def test_packing_fills_rows(lengths_corpus, batches_of):
  lengths = {"source_length": 64, "target_length": 80}
  for pack, least, most in ((True, 0.94, 1.0), (False, 0.1, 0.2)):
    batches = batches_of(lengths_corpus, pack=pack, **lengths)
    for _ in range(400):
      batches.plan()
    assert least < batches.stats["row_fill"] <= most

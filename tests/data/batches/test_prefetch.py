import contextlib
import itertools
import threading

import numpy as np
import pytest

from taskmoe_jax.data.batches.batches import TrainBatches, prefetch
from taskmoe_jax.errors import TaskMoeError


def test_prefetch_gives_the_same_with_the_state_of_each(mixture, batches_of):
  batches = batches_of(mixture)
  expected = [(next(batches), batches.state()) for _ in range(9)]
  with contextlib.closing(prefetch(batches_of(mixture), depth=3)) as stream:
    found = list(itertools.islice(stream, 9))
  for (batch, state), (other, other_state) in zip(found, expected, strict=True):
    assert state == other_state
    for name in other:
      np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def test_prefetch_works_ahead_but_not_farther_than_told():
  class Counting(TrainBatches):
    made = 0
    enough = threading.Event()
    too_many = threading.Event()

    def __init__(self):
      pass

    def __next__(self):
      self.made += 1
      if self.made == 4:
        self.enough.set()
      if self.made == 5:
        self.too_many.set()
      return {}

    def state(self):
      return {"made": self.made}

  batches = Counting()
  with contextlib.closing(prefetch(batches, depth=3)) as stream:
    assert next(stream)[1] == {"made": 1}
    assert batches.enough.wait(5)
    assert not batches.too_many.wait(0.2)
  assert batches.made == 4


def test_prefetch_ends_its_thread(mixture, batches_of):
  stream = prefetch(batches_of(mixture), depth=2)
  next(stream)
  assert "prefetch" in [thread.name for thread in threading.enumerate()]
  stream.close()
  assert "prefetch" not in [thread.name for thread in threading.enumerate()]


def test_prefetch_raises_what_its_thread_did(mixture_of, batches_of):
  mixture = mixture_of({"en-de": {"train": [("a" * 50, "b")]}})
  stream = prefetch(batches_of(mixture), depth=2)
  with pytest.raises(TaskMoeError, match="no example of en-de fits"):
    next(stream)
  assert "prefetch" not in [thread.name for thread in threading.enumerate()]

"""Who notices what when a process of the job ends, with a store of our own."""

import pytest

from taskmoe_jax.hosts.liveness import HostWatch


class Store:
  """The key-value store of `jax.distributed`, as far as it is used."""

  def __init__(self):
    self.values = {}
    self.gone = False

  def key_value_set(self, key, value, allow_overwrite=False):
    self._check()
    if key in self.values and not allow_overwrite:
      raise RuntimeError(f"ALREADY_EXISTS: {key}")
    self.values[key] = value

  def key_value_dir_get(self, prefix):
    self._check()
    # A folder, as in JAX: a key that is called like it is not in it.
    prefix = prefix.rstrip("/") + "/"
    return [
      (key, value)
      for key, value in self.values.items()
      if key.startswith(prefix)
    ]

  def _check(self):
    if self.gone:
      raise RuntimeError("UNAVAILABLE: failed to connect\nmore")


@pytest.fixture
def now():
  return [0.0]


@pytest.fixture
def store():
  return Store()


@pytest.fixture
def watch(store, now):
  def watch(process_id):
    return HostWatch(
      store,
      f"process {process_id} on host-{process_id}",
      silence_seconds=0.6,
      process_id=process_id,
      num_processes=3,
      clock=lambda: now[0],
    )

  return watch


def test_nothing_is_wrong_while_all_beat(watch, now):
  watches = [watch(number) for number in range(3)]
  for _ in range(20):
    now[0] += 0.4
    assert [w.look() for w in reversed(watches)] == [None] * 3


def test_a_silent_process_is_named_to_all(watch, now):
  first, second, third = (watch(number) for number in range(3))
  for each in (second, third, first):
    assert each.look() is None
  now[0] += 0.5
  assert third.look() is first.look() is None
  now[0] += 0.5
  assert third.look() is None
  reason = "process 1 on host-1 has been silent for 1 s"
  assert first.look() == reason
  assert third.look() == reason


def test_a_process_that_never_came(watch, now):
  first = watch(0)
  assert first.look() is None
  now[0] += 1.0
  assert first.look() == "process 1 has been silent for 1 s"


def test_the_reason_of_whoever_stopped_first_reaches_all(watch):
  first, second, third = (watch(number) for number in range(3))
  second.tell("process 1 on host-1 stopped: no room")
  third.tell("process 2 on host-2 stopped: broken pipe")
  assert first.look() == "process 1 on host-1 stopped: no room"


def test_the_end_of_process_0(watch, store):
  second = watch(1)
  store.gone = True
  assert second.look() == (
    "process 0, which coordinates, is gone (UNAVAILABLE: failed to connect)"
  )
  second.tell("nobody hears this, and nothing is raised")


def test_the_thread_ends_the_process_once_and_can_be_stopped(store):
  ended = []
  watch = HostWatch(
    store,
    "process 1",
    silence_seconds=0.06,
    process_id=1,
    num_processes=2,
    end=ended.append,
  )
  watch.start()
  store.values["taskmoe/stopped/reason"] = "process 0 stopped: enough"
  watch.wait_for_reason()
  watch.join(timeout=10)
  assert ended == ["process 0 stopped: enough"]
  quiet = HostWatch(
    Store(),
    "process 1",
    silence_seconds=0.06,
    process_id=1,
    num_processes=2,
    end=ended.append,
  )
  quiet.start()
  quiet.stop()
  quiet.join(timeout=10)
  assert not quiet.is_alive()
  assert len(ended) == 1

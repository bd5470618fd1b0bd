"""The search, with the eight devices here as a topology and no compiler."""

import dataclasses

import jax
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.pods.search import candidates, search
from taskmoe_jax.pods.topologies import Topology
from tests.pods.test_report import REPORT


class _Here(Topology):
  """Four of the devices."""

  ici_bytes_per_second = 1e9

  def __init__(self, hbm_bytes):
    super().__init__("v5e:2x4")
    self.__dict__["hbm"] = hbm_bytes

  @property
  def hbm_bytes(self):
    return self.hbm

  @property
  def devices(self):
    return jax.devices()[:4]


_BUILT = {}


@pytest.fixture
def small(planned):
  """Settings of the small recipe; a plan is built once for all tests."""
  settings, build, _ = planned()

  def build_once(settings, partitioning):
    key = partitioning, settings["batches"]
    if key not in _BUILT:
      _BUILT[key] = build(settings, partitioning)
    return _BUILT[key]

  return settings, build_once


def sizes(candidate):
  shape = candidate.plan.partitioning.mesh.shape
  return tuple(shape[name] for name in ("data", "expert", "model"))


def test_candidates(small):
  """16 rows, 4 experts and two heads: `expert` and `model` must divide them."""
  settings, build = small
  found = candidates(settings, _Here(10**9), build)
  meshes = {sizes(candidate) for candidate in found}
  assert meshes == {
    *((4, 1, 1), (2, 2, 1), (1, 4, 1)),
    *((2, 1, 2), (1, 2, 2)),
  }
  seconds = [candidate.sending_s for candidate in found]
  assert seconds == sorted(seconds)
  # With FSDP a device holds less of the state.
  held = {(sizes(c), c.plan.partitioning.fsdp): c.held_bytes for c in found}
  assert held[(2, 2, 1), True] < held[(2, 2, 1), False] < held[(4, 1, 1), False]


def test_what_cannot_hold_the_state_is_left_out(small):
  settings, build = small
  some = candidates(settings, _Here(10**9), build)
  least = min(candidate.held_bytes for candidate in some)
  few = candidates(settings, _Here(least + 1), build)
  assert len(few) < len(some)
  with pytest.raises(TaskMoeError, match="no mesh of 4 devices serves this"):
    candidates(settings, _Here(least), build)


def test_the_best_that_fits_comes_first(small):
  settings, build = small
  seen = []

  def compiled(candidate):
    seen.append(candidate.label)
    # Nothing fits but the second program, and the last, which is slower.
    number = len(seen)
    return dataclasses.replace(
      REPORT,
      name=candidate.label,
      fits=number in (2, 4),
      time=dataclasses.replace(REPORT.time, compute=float(number)),
    )

  found = search(
    settings, _Here(10**9), limit=4, build=build, compiled=compiled
  )
  assert [report.name for report in found[:2]] == [seen[1], seen[3]]
  assert not any(report.fits for report in found[2:])
  assert len(found) == len(seen) == 4


def test_how_many(small):
  settings, build = small
  with pytest.raises(TaskMoeError, match="Set --search"):
    search(settings, _Here(1), limit=0, build=build, compiled=len)

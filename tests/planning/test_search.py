"""The search, with the eight devices here as a topology and no compiler."""

import dataclasses

import jax
import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import Embeddings, ModelConfig, StackConfig
from taskmoe_jax.planning.memory import DeviceMemory
from taskmoe_jax.planning.search import candidates, repeated_flops, search
from taskmoe_jax.planning.topologies import Topology
from taskmoe_jax.train.batch_shape import BatchShape
from tests.planning.test_pod_report import REPORT


class _Here(Topology):
  """Four of the devices."""

  ici_bytes_per_second = 1e9
  peak_flops = 1e12

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
  """Settings of the small recipe; one plan a mesh is built for all tests."""
  settings, build, _ = planned()

  def build_once(settings, partitioning):
    if partitioning not in _BUILT:
      _BUILT[partitioning] = build(settings, partitioning)
    batches = settings["batches"]
    return dataclasses.replace(_BUILT[partitioning], batches=batches)

  return settings, build_once


def sizes(candidate):
  shape = candidate.partitioning.mesh.shape
  return tuple(shape[name] for name in ("data", "expert", "model"))


@pytest.mark.slow
def test_candidates(small):
  """16 rows, 4 experts and two heads: `expert` and `model` must divide them."""
  settings, build = small
  found = candidates(settings, _Here(10**9), build)
  meshes = {sizes(candidate) for candidate in found}
  assert meshes == {
    *((4, 1, 1), (2, 2, 1), (1, 4, 1)),
    *((2, 1, 2), (1, 2, 2)),
  }
  seconds = [c.sending_s + c.repeating_s for c in found]
  assert seconds == sorted(seconds)
  # With FSDP a device holds less of the state.
  held = {(sizes(c), c.partitioning.fsdp): c.held_bytes for c in found}
  assert held[(2, 2, 1), True] < held[(2, 2, 1), False] < held[(4, 1, 1), False]
  # Four devices take a row each of a microbatch, two take two.
  of_mesh = [c for c in found if sizes(c) == (2, 1, 2)]
  assert {(c.num_microbatches, c.rematerialize) for c in of_mesh} == {
    (number, kind)
    for number in (1, 2, 4, 8)
    for kind in ("none", "all_but_products", "full")
  }
  of_mesh = [c for c in found if sizes(c) == (1, 4, 1)]
  assert {c.num_microbatches for c in of_mesh} == {1, 2, 4}


def test_what_is_computed_twice():
  """By hand: rows of 5 source and 7 target tokens, one layer, D = A = 4.

  The forward pass of the blocks, without the softmax over 11 pieces.
  """
  model = ModelConfig(
    vocab_size=11,
    embed_dim=4,
    num_heads=2,
    head_dim=2,
    activation=Activation.RELU,
    embeddings=Embeddings.ONE,
    encoder=StackConfig(num_layers=1, mlp_dims=(3,)),
    decoder=StackConfig(num_layers=1, mlp_dims=(3,)),
  )
  batches = BatchShape(
    batch_size=6,
    rows_per_task_group=2,
    source_length=5,
    target_length=7,
    pack=False,
    num_microbatches=1,
  )

  def of(kind):
    repeating = dataclasses.replace(model, rematerialize=kind)
    return repeated_flops(repeating, batches)

  attention = 4 * 4 * (5 * 5 + 7 * 7 + 7 * 5)
  source = 8 * 16 + 4 * 4 * 3 + 4 * 16
  target = 8 * 16 + 4 * 16 + 4 * 4 * 3
  assert of("none") == 0
  assert of("all_but_products") == 6 * attention
  assert of("full") == 6 * (attention + 5 * source + 7 * target)


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

  def compiled(plan, name):
    seen.append(name)
    # Nothing fits but the second program, and the last, which is slower.
    number = len(seen)
    return dataclasses.replace(
      REPORT,
      name=name,
      fits=number in (2, 4),
      time=dataclasses.replace(REPORT.time, compute=float(number)),
    )

  found = search(
    settings, _Here(10**9), limit=4, build=build, compiled=compiled
  )
  assert [report.name for _, report in found[:2]] == [seen[1], seen[3]]
  assert [candidate.label for candidate, _ in found[:2]] == [seen[1], seen[3]]
  assert not any(report.fits for _, report in found[2:])
  assert len(found) == len(seen) == 4


def test_a_mesh_saves_only_as_much_as_it_must(small):
  """Of 45 temporaries there is room for four, beside 10 of arguments.

  Computing twice leaves a half or a third of them, and n microbatches an n-th.
  What is the same but for twice as many microbatches leaves half at best, so it
  need not be compiled where there is no room for that.
  """
  settings, build = small
  tried = []

  def compiled(plan, name):
    parts, kind = plan.batches.num_microbatches, name.rpartition(" ")[-1]
    tried.append((plan.partitioning, parts, kind))
    saving = {"none": 1, "all_but_products": 2, "full": 3}[kind]
    left = 45 // (parts * saving)
    return dataclasses.replace(
      REPORT,
      name=name,
      hbm_bytes=15,
      memory=DeviceMemory(10, left, 0, 0, 0),
      fits=left < 5,
    )

  found = search(
    settings, _Here(10**9), limit=10**3, build=build, compiled=compiled
  )
  fitting = [candidate for candidate, report in found if report.fits]
  # One of each mesh, and no mesh after it.
  meshes = [candidate.partitioning for candidate in fitting]
  assert set(meshes) == {mesh for mesh, _, _ in tried}
  assert len(set(meshes)) == len(meshes)
  for candidate in fitting:
    parts, kind = candidate.num_microbatches, candidate.rematerialize
    assert (parts, kind) in {(4, "full"), (8, "all_but_products")}
    of_mesh = [t[1:] for t in tried if t[0] == candidate.partitioning]
    assert (of_mesh[0], of_mesh[-1]) == ((1, "none"), (parts, kind))
    # A half, a quarter and an eighth of 45 are too much.
    assert not {(2, "none"), (4, "none"), (8, "none")} & set(of_mesh)
    flags = candidate.flags.split()
    assert f"--gin.REMATERIALIZE={kind}" in flags
    assert f"--gin.MICROBATCHES={parts}" in flags


def test_how_many(small):
  settings, build = small
  with pytest.raises(TaskMoeError, match="Set --search"):
    search(settings, _Here(1), limit=0, build=build, compiled=len)

"""What travels between devices: searched in the compiled program."""

import functools
import math
import re

import jax
import numpy as np
import pytest

from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.moe.capacity import Capacity
from taskmoe_jax.moe.dropless import Dropless
from taskmoe_jax.moe.expert_fetch import ExpertFetch
from taskmoe_jax.partitioning.rules import activate
from tests.moe.test_engines import (
  MESHES,
  UNOPTIMIZED,
  B,
  D,
  E,
  F,
  L,
  lay_out,
  loss,
  make_inputs,
  make_weights,
  partitioning,
)

pytestmark = pytest.mark.slow

_COLLECTIVE = re.compile(
  r" = (?P<shapes>\(.*\)|\S+) "
  r"(?P<kind>all-gather|all-to-all|all-reduce|reduce-scatter|"
  r"collective-permute|collective-broadcast)(-start)?\("
)


def lowered(engine, decided_for, mesh, *, fsdp=False):
  """A layer's forward and backward pass, before XLA."""
  parts = partitioning(mesh, fsdp)
  x, experts, gates, valid = make_inputs(2, decided_for)
  weights, x, gates, experts, valid = lay_out(
    parts, engine, make_weights(Activation.RELU), x, gates, experts, valid
  )
  grad = jax.jit(
    jax.grad(
      functools.partial(loss, engine, Activation.RELU),
      argnums=(0, 1, 2),
      has_aux=True,
    ),
    compiler_options=UNOPTIMIZED,
  )
  with activate(parts):
    return grad.lower(x, gates, weights, experts, valid, x)


def collectives(engine, decided_for, mesh, *, fsdp=False):
  """Kind and number of elements of each one."""
  program = lowered(engine, decided_for, mesh, fsdp=fsdp).compile()
  found = []
  for match in _COLLECTIVE.finditer(program.as_text()):
    shapes = re.findall(r"\[([\d,]*)\]", match["shapes"])
    size = sum(math.prod(map(int, s.split(","))) for s in shapes if s)
    found.append((match["kind"], size))
  return found


def groups_of(line):
  """The devices that speak to each other, as HLO writes them."""
  listed = re.search(r"replica_groups=\{(\{[\d,{}]*\})\}", line)
  if listed:
    return [
      [int(device) for device in group.split(",")]
      for group in re.findall(r"[\d,]*\d", listed[1].replace("},{", "} {"))
    ]
  shape, order, axes = re.search(
    r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line
  ).groups()
  shape, order = ([int(n) for n in text.split(",")] for text in (shape, order))
  devices = np.arange(math.prod(order)).reshape(order)
  if axes:
    devices = devices.transpose([int(axis) for axis in axes.split(",")])
  return devices.reshape(shape).tolist()


ENGINES = [
  pytest.param(Capacity(None, 2 * L), "token", id="capacity-token"),
  pytest.param(Capacity(None, 2 * L), "row", id="capacity-row"),
  pytest.param(Dropless(1.5), "token", id="dropless-token"),
  pytest.param(Dropless(1.5), "row", id="dropless-row"),
  pytest.param(ExpertFetch(2), "row", id="expert_fetch-row"),
]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [m for m in MESHES if m != "one device"])
@pytest.mark.parametrize(("engine", "decided_for"), ENGINES)
def test_no_activations_and_not_all_weights_are_gathered(
  engine, decided_for, mesh
):
  """Integers that say who wants what may be; they are few."""
  found = collectives(engine, decided_for, mesh)
  gathered = [
    n for kind, n in found if kind != "all-to-all" and "reduce" not in kind
  ]
  activations = B // 8 * L * D
  assert all(size < activations // 4 for size in gathered), found
  expert = MESHES[mesh][-2]
  assert any(kind == "all-to-all" for kind, _ in found) == (expert > 1)


def test_fetched_experts_travel_once_each_way():
  """(1, 8, 1): a device has two rows of one task, so one group of K = 2.

  It receives K experts' `wi` and `wo`, and in the backward pass sends as many
  gradients.
  """
  once = [("all-to-all", 2 * D * F)] * 4
  found = collectives(ExpertFetch(2), "row", "1,8,1")
  assert [f for f in found if f[0] == "all-to-all"] == once


def test_to_fetch_again_takes_two_more():
  """Before XLA: on a CPU it sees that both fetches are the same."""
  for refetch, number in ((False, 4), (True, 6)):
    engine = ExpertFetch(2, refetch=refetch)
    text = lowered(engine, "row", "1,8,1").as_text()
    assert text.count("stablehlo.all_to_all") == number


def test_under_fsdp_experts_are_still_fetched_not_gathered():
  found = collectives(ExpertFetch(2), "row", "8,1,1", fsdp=True)
  assert ("all-to-all", 2 * D * F) in found
  assert all(size < D * F for kind, size in found if kind == "all-gather")


def test_a_pool_bounds_what_tokens_travel():
  """(1, 8, 1): of ten tokens' 20 choices, ceil(1.5 · 20 / 8) = 4 to each."""
  found = collectives(Dropless(1.5), "token", "1,8,1")
  tokens = [n for kind, n in found if kind == "all-to-all" and n > E]
  assert tokens == [8 * 4 * D] * 4


@pytest.mark.parametrize("mesh", ["1,8,1", "2,2,2"])
@pytest.mark.parametrize(
  "engine", [Dropless(None), ExpertFetch(2)], ids=["dropless", "expert_fetch"]
)
def test_a_device_keeps_its_share_of_the_weights(engine, mesh):
  weights, *_ = lay_out(
    partitioning(mesh), engine, make_weights(Activation.RELU)
  )
  whole = {"wi": (E, D, F), "wo": (E, F, D)}
  for weight, shape in zip(
    (*weights.wi, weights.wo), whole.values(), strict=True
  ):
    shard = weight.sharding.shard_shape(weight.shape)
    assert math.prod(shard) * (8 if mesh == "1,8,1" else 4) == math.prod(shape)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "decided_for"), ENGINES)
def test_between_slices_only_gradients_are_summed(engine, decided_for):
  """Devices 0 to 3 are one slice, 4 to 7 the other."""
  program = lowered(engine, decided_for, "2,1,4,1").compile()
  crossing = set()
  for line in program.as_text().splitlines():
    if match := _COLLECTIVE.search(line):
      for group in groups_of(line):
        if len({device // 4 for device in group}) > 1:
          crossing.add(match["kind"])
  assert crossing == {"all-reduce"}

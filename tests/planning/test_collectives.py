"""Collectives by hand: who takes part, over which axes, how many bytes."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from taskmoe_jax.planning.collectives import (
  axes_of,
  collectives_of,
  replica_groups,
  traffic_of,
)
from taskmoe_jax.planning.hlo import Module
from taskmoe_jax.planning.topologies import slices_of

_LINE = """\
ENTRY %main (p: f32[8]) -> f32[8] {{
  %p = f32[8]{{0}} parameter(0)
  ROOT %it = {}
}}
"""


def line(text):
  return Module(_LINE.format(text)).computations["main"][-1]


def mesh(data=2, expert=4):
  grid = np.array(jax.devices()[: data * expert]).reshape(data, expert)
  return Mesh(grid, ("data", "expert"))


ONE_SLICE = np.zeros(8, int)
TWO_SLICES = np.array([0, 0, 0, 0, 1, 1, 1, 1])


@pytest.mark.parametrize(
  ("text", "groups"),
  [
    ("replica_groups={}", [(0, 1, 2, 3, 4, 5, 6, 7)]),
    ("replica_groups={{0,4},{1,5},{2,6},{3,7}}", [(0, 4), (1, 5)]),
    ("replica_groups=[2,4]<=[8]", [(0, 1, 2, 3), (4, 5, 6, 7)]),
    ("replica_groups=[4,2]<=[2,4]T(1,0)", [(0, 4), (1, 5)]),
    (
      "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_1'}",
      [(0, 1, 2, 3), (4, 5, 6, 7)],
    ),
    (
      "replica_groups=mesh['axis_0'=2,'axis_1'=4] {'axis_0'}",
      [(0, 4), (1, 5)],
    ),
    ("source_target_pairs={{0,1},{1,0},{2,3},{3,2}}", [(0, 1), (2, 3)]),
  ],
)
def test_groups(text, groups):
  found = replica_groups(line(f"f32[8] all-reduce(%p), {text}, x=1"), 8)
  assert found[: len(groups)] == groups


@pytest.mark.parametrize(
  ("group", "axes"),
  [
    ((0, 4), ("data",)),
    ((4, 5, 6, 7), ("expert",)),
    (tuple(range(8)), ("data", "expert")),
    # Half of an axis is none.
    ((0, 1), ()),
  ],
)
def test_axes(group, axes):
  assert axes_of([group], {"data": 2, "expert": 4}) == axes


@pytest.mark.parametrize(
  ("text", "num_bytes", "ici", "dcn"),
  [
    # Four devices: 3/4 of the bytes, twice for an all-reduce.
    ("f32[100] all-reduce(%p), replica_groups=[2,4]<=[8]", 400, 600, 0),
    ("f32[100] all-gather(%p), replica_groups=[2,4]<=[8]", 400, 300, 0),
    ("f32[25] reduce-scatter(%p), replica_groups=[2,4]<=[8]", 400, 300, 0),
    ("bf16[4,50] all-to-all(%p), replica_groups=[2,4]<=[8]", 400, 300, 0),
    (
      "f32[100] collective-permute(%p), source_target_pairs={{0,1},{1,0}}",
      400,
      400,
      0,
    ),
    # Both slices: within each as above, then a quarter between two.
    ("f32[100] all-reduce(%p), replica_groups={}", 400, 600, 100),
    ("f32[100] all-reduce(%p), replica_groups={{0,4},{1,5}}", 400, 0, 400),
  ],
)
def test_what_a_device_sends(text, num_bytes, ici, dcn):
  slices = TWO_SLICES if dcn else ONE_SLICE
  found = traffic_of(line(text), mesh(), slices)
  assert found.num_bytes == num_bytes
  assert found.ici_bytes == pytest.approx(ici)
  assert found.dcn_bytes == pytest.approx(dcn)


def test_one_that_is_started_lists_its_operands_first():
  text = (
    "(f32[25]{0}, f32[100]{0}) all-gather-start(%p), replica_groups=[2,4]<=[8]"
  )
  assert traffic_of(line(text), mesh(), ONE_SLICE).num_bytes == 400
  text = "f32[100]{0} all-reduce-start(%p), replica_groups=[2,4]<=[8]"
  assert traffic_of(line(text), mesh(), ONE_SLICE).num_bytes == 400


def test_other_lines_send_nothing():
  assert traffic_of(line("f32[8] add(%p, %p)"), mesh(), ONE_SLICE) is None
  done = line("f32[8] all-reduce-done(%p)")
  assert traffic_of(done, mesh(), ONE_SLICE) is None


def test_a_program_of_ours_compiled_here():
  """Rows over both axes, weights over `expert`: a sum over each."""
  devices = mesh()

  def on(*spec):
    return NamedSharding(devices, PartitionSpec(*spec))

  def loss(w, x):
    return (x @ w).sum()

  program = (
    jax.jit(
      jax.grad(loss),
      in_shardings=(on(None, "expert"), on("data")),
      out_shardings=on(None, "expert"),
    )
    .lower(
      jax.ShapeDtypeStruct((6, 20), "float32"),
      jax.ShapeDtypeStruct((10, 6), "float32"),
    )
    .compile()
  )
  found = collectives_of(Module(program.as_text()), devices, slices_of(devices))
  assert [(c.kind, c.axes, c.count) for c in found] == [
    ("all-reduce", ("data",), 1)
  ]
  assert found[0].network == "ICI"


_FUSED = """\
%all-reduce-scatter (a: f32[100]) -> f32[25] {
  %a = f32[100]{0} parameter(0)
  %sum = f32[100]{0} all-reduce(%a), replica_groups=[2,4]<=[8]
  ROOT %part = f32[25]{0} dynamic-slice(%sum)
}

%gather (b: f32[25]) -> f32[100] {
  %b = f32[25]{0} parameter(0)
  ROOT %whole = f32[100]{0} all-gather(%b), replica_groups=[2,4]<=[8]
}

ENTRY %main (p: f32[100]) -> f32[100] {
  %p = f32[100]{0} parameter(0)
  %mine = f32[25]{0} fusion(%p), kind=kCustom, calls=%all-reduce-scatter
  %after = token[] after-all()
  %send = (f32[25]{0}, u32[], token[]) send(%mine, %after), \
frontend_attributes={_xla_host_transfer_rendezvous="sum_0",\
_xla_megascale_transfer_type="ALL_REDUCE"}
  %recv = (f32[25]{0}, u32[], token[]) recv(%after), \
frontend_attributes={_xla_host_transfer_rendezvous="sum_0"}
  %got = (f32[25]{0}, token[]) recv-done(%recv)
  %async-collective-start = f32[100]{0} fusion(%got), kind=kCustom, \
calls=%gather
  %fusion = f32[100]{0} fusion(%async-collective-start), calls=%gather
  ROOT %async-collective-done = f32[100]{0} fusion(%fusion), calls=%gather
}
"""


def test_what_the_compiler_makes_of_a_sum_over_slices():
  found = collectives_of(Module(_FUSED), mesh(), TWO_SLICES)
  assert {(c.kind, c.axes, c.count, c.num_bytes) for c in found} == {
    ("reduce-scatter", ("expert",), 1, 400),
    ("all-reduce", ("slice",), 1, 100),
    ("all-gather", ("expert",), 1, 400),
  }
  assert sum(c.ici_bytes for c in found) == 600
  assert [c.dcn_bytes for c in found if c.dcn_bytes] == [100]


def test_a_transfer_to_a_host_is_none_of_them():
  plain = _FUSED.replace("_xla_megascale_transfer_type", "_other")
  found = collectives_of(Module(plain), mesh(), TWO_SLICES)
  assert all(c.network == "ICI" for c in found)

"""A schedule by hand: what is hidden, and what is waited for."""

import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from taskmoe_jax.planning.hlo import Module
from taskmoe_jax.planning.time_estimate import estimate
from taskmoe_jax.planning.topologies import Chip, Topology

# One million cycles is a millisecond; a device sends a megabyte in one.
_PROGRAM = """\
%body (a: (s32[], f32[8])) -> (s32[], f32[8]) {{
  %a = (s32[], f32[8]{{0}}) parameter(0)
  %n = s32[] get-tuple-element(%a), index=0
  %x = f32[8]{{0}} get-tuple-element(%a), index=1
  %y = f32[8]{{0}} add(%x, %x), {ms2}
  %z = f32[250000]{{0}} all-reduce(%y), replica_groups={groups}
  ROOT %t = (s32[], f32[8]{{0}}) tuple(%n, %y)
}}

%condition (b: (s32[], f32[8])) -> pred[] {{
  %five = s32[] constant(5)
  %b = (s32[], f32[8]{{0}}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  ROOT %less = pred[] compare(%i, %five), direction=LT
}}

ENTRY %main (p: (s32[], f32[8])) -> f32[8] {{
  %p = (s32[], f32[8]{{0}}) parameter(0)
  %w = (s32[], f32[8]{{0}}) while(%p), condition=%condition, body=%body
  %start = (f32[125000]{{0}}, f32[1000000]{{0}}) all-gather-start(%w), \
replica_groups={{}}
  %u = f32[8]{{0}} add(%w, %w), {ms2}
  %done = f32[1000000]{{0}} all-gather-done(%start)
  ROOT %v = f32[8]{{0}} add(%u, %u), {ms2}
}}
"""
_CYCLES = 'backend_config={"window_config":{"estimated_cycles":"2000000"}}'


class _Topology(Topology):
  chip = Chip(1.0, 1, 1, 8, 1)
  hertz = peak_flops = ici_bytes_per_second = 1e9
  dcn_bytes_per_second = None


class _WithKnownNetwork(_Topology):
  dcn_bytes_per_second = 0.5e9


def _estimate(topology, groups="[1,8]<=[8]", program=_PROGRAM):
  mesh = Mesh(np.array(jax.devices()), ("data",))
  text = program.format(ms2=_CYCLES, groups=groups)
  return estimate(Module(text), mesh, topology)


def test_what_the_work_between_hides():
  """Five turns of 2 ms and an all-reduce of 1 MB: 7/4 ms each.

  The all-gather of 4 MB takes 7/8 of 4 ms; 2 ms of work hide a part of it.
  """
  found = _estimate(_Topology("v5e:1x8"))
  assert found.compute == pytest.approx(14e-3)
  assert found.ici == pytest.approx((5 * 7 / 4 + 3.5) * 1e-3)
  assert found.exposed == pytest.approx((5 * 7 / 4 + 1.5) * 1e-3)
  assert found.dcn == 0
  assert found.total == pytest.approx(found.compute + found.exposed)


def test_between_slices(monkeypatch):
  slices = np.array([0, 0, 0, 0, 1, 1, 1, 1])
  module = "taskmoe_jax.planning.time_estimate.slices_of"
  monkeypatch.setattr(module, lambda _: slices)
  # Each pair sums 1 MB over the network between; the gather sends a quarter
  # of its 4 MB over it.
  groups = "[4,2]<=[2,4]T(1,0)"
  found = _estimate(_WithKnownNetwork("v5e:1x8"), groups)
  assert found.dcn == pytest.approx((5 * 1 + 0.5) * 2e-3)
  unknown = _estimate(_Topology("v5e:1x8"), groups)
  assert unknown.dcn is None
  assert unknown.total is None
  assert unknown.ici == pytest.approx(found.ici)


def test_a_kernel_takes_what_its_flops_or_bytes_need():
  kernel = (
    'custom-call(%w), custom_call_target="tpu_custom_call",'
    ' backend_config={{"custom_call_config":{{"cost_estimate":{{"flops":'
    '"3000000","bytes_accessed":"738"}}}}}}'
  )
  text = _PROGRAM.replace(
    "%u = f32[8]{{0}} add(%w, %w), {ms2}", f"%u = f32[8]{{{{0}}}} {kernel}"
  )
  found = _estimate(_Topology("v5e:1x8"), program=text)
  assert found.compute == pytest.approx(15e-3)
  assert found.kernels == pytest.approx(3e-3)


def test_a_program_without_the_compilers_estimates():
  program = _PROGRAM.replace(", {ms2}", "")
  assert _estimate(_Topology("v5e:1x8"), program=program) is None


def test_an_all_to_all_passes_bytes_on():
  """A quarter of a ring of eight: each byte goes over two links."""
  program = _PROGRAM.replace("all-reduce", "all-to-all")
  found = _estimate(_Topology("v5e:1x8"), program=program)
  assert found.ici == pytest.approx((5 * 7 / 8 * 2 + 3.5) * 1e-3)

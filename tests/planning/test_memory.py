"""What a step needs of main memory, by hand."""

import pytest

from taskmoe_jax.planning.hlo import Module
from taskmoe_jax.planning.memory import (
  DeviceMemory,
  largest_temporaries,
  needed_memory,
)

_PROGRAM = """\
%body (a: (s32[], f32[4,256])) -> (s32[], f32[4,256]) {
  %a = (s32[], f32[4,256]{1,0:T(8,128)}) parameter(0)
  %n = s32[] get-tuple-element(%a), index=0
  %x = f32[4,256]{1,0:T(8,128)} get-tuple-element(%a), index=1
  %y = f32[4,256]{1,0:T(8,128)} add(%x, %x), \
metadata={op_name="jit(step)/jvp(Model)/decoder/while/body/layer_1/mlp/add"}
  %chip = f32[512,512]{1,0:T(8,128)S(1)} copy(%y)
  ROOT %t = (s32[], f32[4,256]{1,0:T(8,128)}) tuple(%n, %y)
}

%condition (b: (s32[], f32[4,256])) -> pred[] {
  %three = s32[] constant(3)
  %b = (s32[], f32[4,256]{1,0:T(8,128)}) parameter(0)
  %i = s32[] get-tuple-element(%b), index=0
  ROOT %less = pred[] compare(%i, %three), direction=LT
}

ENTRY %main (p: f32[1000,1000]) -> (f32[1000,1000], f32[7]) {
  %p = f32[1000,1000]{1,0} parameter(0)
  %e = (s32[], f32[4,256]{1,0:T(8,128)}) custom-call(), \
custom_call_target="AllocateBuffer"
  %w = (s32[], f32[4,256]{1,0:T(8,128)}) while(%e), condition=%condition, \
body=%body
  %new = f32[1000,1000]{1,0} add(%p, %p)
  %half = bf16[100,10]{1,0} convert(%new)
  %scalars = f32[7]{0} reduce(%half)
  ROOT %out = (f32[1000,1000]{1,0}, f32[7]{0}) tuple(%new, %scalars)
}
"""


def test_the_largest_temporaries():
  """Neither what is given and returned, nor what lies on the chip."""
  found = largest_temporaries(Module(_PROGRAM), 2)
  assert [(t.shape, t.num_bytes) for t in found] == [
    ("f32[4,256]", 8 * 256 * 4),
    ("bf16[100,10]", 2000),
  ]
  # The line that makes it, not the one that sets its memory aside.
  assert found[0].origin == "layer_1/mlp/add"


@pytest.mark.parametrize(
  ("message", "expected"),
  [
    (
      "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required"
      " for HLO temporaries (19.19G) exceeds available HBM (15.48G).",
      round(19.19 * 2**30),
    ),
    (
      "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 512.50M"
      " of 256.00M hbm. Exceeded hbm capacity by 256.50M.",
      round(512.5 * 2**20),
    ),
    ("INTERNAL: something else (5.0G) is wrong", None),
  ],
)
def test_what_a_refused_program_would_need(message, expected):
  assert needed_memory(message) == expected


def test_output_in_place_of_arguments_counts_once():
  memory = DeviceMemory(
    arguments=100, temporaries=30, output=90, shared=80, code=5
  )
  assert memory.total == 145

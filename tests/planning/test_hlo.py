"""Programs by hand, as the TPU compiler writes them."""

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.planning.hlo import Module, Shape

# Two loops, one inside the other: 3 turns of 5.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%fused (p0: bf16[4,6], p1: bf16[6,10]) -> bf16[4,10] {
  %p0 = bf16[4,6]{1,0:T(8,128)(2,1)} parameter(0)
  %p1 = bf16[6,10]{1,0:T(8,128)(2,1)} parameter(1)
  ROOT %conv = bf16[4,10]{1,0} convolution(%p0, %p1), dim_labels=bf_io->bf
}

%inner_body (a: (s32[], f32[8])) -> (s32[], f32[8]) {
  %a = (s32[]{:T(256)}, f32[8]{0:T(128)}) parameter(0)
  %n = s32[]{:T(256)} get-tuple-element(%a), index=0
  %x = f32[8]{0:T(128)} get-tuple-element(%a), index=1
  %y = f32[8]{0:T(128)} add(%x, %x), metadata={op_name="jit(step)/mlp/add"}, \
backend_config={"window_config":{"estimated_cycles":"70"}}
  ROOT %t = (s32[]{:T(256)}, /*index=1*/f32[8]{0:T(128)}) tuple(%n, %y)
}

%inner_condition (b: (s32[], f32[8])) -> pred[] {
  %five = s32[]{:T(256)} constant(5)
  %b = (s32[]{:T(256)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(256)} get-tuple-element(%b), index=0
  ROOT %less = pred[]{:T(512)} compare(%i, %five), direction=LT
}

%outer_body (c: (s32[], f32[8])) -> (s32[], f32[8]) {
  %c = (s32[]{:T(256)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %w1 = (s32[]{:T(256)}, f32[8]{0:T(128)}) while(%c), \
condition=%inner_condition, body=%inner_body
}

%outer_condition (d: (s32[], f32[8])) -> pred[] {
  %three = s32[]{:T(256)} constant(3)
  %d = (s32[]{:T(256)}, f32[8]{0:T(128)}) parameter(0)
  %j = s32[]{:T(256)} get-tuple-element(%d), index=0
  ROOT %more = pred[]{:T(512)} compare(%j, %three), direction=LT
}

ENTRY %main (e: (s32[], f32[8]), l: bf16[4,6], r: bf16[6,10]) -> bf16[4,10] {
  %e = (s32[]{:T(256)}, f32[8]{0:T(128)}) parameter(0)
  %l = bf16[4,6]{1,0:T(8,128)(2,1)} parameter(1)
  %r = bf16[6,10]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %w0 = (s32[]{:T(256)}, f32[8]{0:T(128)}) while(%e), \
condition=%outer_condition, body=%outer_body
  ROOT %f = bf16[4,10]{1,0:T(8,128)(2,1)} fusion(%l, %r), kind=kOutput, \
calls=%fused
}
"""


@pytest.fixture(scope="module")
def module():
  return Module(PROGRAM)


def test_lines_run_as_often_as_their_loops_turn(module):
  times = {line.name: n for line, n in module.executed()}
  assert times["w0"] == 1
  assert times["w1"] == 3
  assert times["y"] == 15
  assert "conv" not in times


def test_a_line(module):
  (add,) = [line for line, _ in module.executed() if line.name == "y"]
  assert (add.opcode, add.operands, add.cycles) == ("add", ("x", "x"), 70)
  assert add.op_name == "jit(step)/mlp/add"
  assert [str(shape) for shape in add.shapes] == ["f32[8]"]
  (loop,) = [line for line, _ in module.executed() if line.name == "w0"]
  assert [str(shape) for shape in loop.shapes] == ["s32[]", "f32[8]"]
  assert loop.cycles is None


def test_what_a_fusion_holds(module):
  (fusion,) = [line for line, _ in module.executed() if line.name == "f"]
  inside = [line.opcode for line in module.inside(fusion)]
  assert inside == ["fusion", "parameter", "parameter", "convolution"]


def test_a_loop_that_counts_to_no_constant():
  text = PROGRAM.replace("constant(3)", "copy(%other)")
  times = {line.name: n for line, n in Module(text).executed()}
  assert times["y"] == 5


def test_the_compiler_may_say_how_often_a_loop_turns():
  known = 'body=%outer_body, backend_config={"known_trip_count":{"n":"7"}}'
  text = PROGRAM.replace("body=%outer_body", known)
  assert {line.name: n for line, n in Module(text).executed()}["y"] == 35


@pytest.mark.parametrize(
  ("dtype", "dims", "layout", "plain", "in_memory"),
  [
    ("bf16", (5, 100), "{1,0:T(8,128)(2,1)}", 1000, 8 * 128 * 2),
    ("f32", (3, 9, 130), "{2,1,0:T(8,128)}", 14040, 3 * 16 * 256 * 4),
    # The axes in another order: 3 is the fastest.
    ("f32", (3, 9, 130), "{0,1,2:T(8,128)}", 14040, 128 * 16 * 130 * 4),
    ("s32", (10,), "{0:T(128)}", 40, 512),
    ("pred", (7,), "", 7, 7),
    ("f32", (), "", 4, 4),
    ("f8e4m3fn", (6,), "", 6, 6),
    ("s4", (6,), "", 3, 3),
  ],
)
def test_bytes(dtype, dims, layout, plain, in_memory):
  shape = Shape(dtype, dims, layout)
  assert (shape.num_bytes, shape.bytes_in_memory) == (plain, in_memory)


def test_memory_on_the_chip(module):
  (left,) = module.shapes["l"]
  (right,) = module.shapes["r"]
  assert left.in_main_memory
  assert not right.in_main_memory


def test_a_program_without_text():
  with pytest.raises(TaskMoeError, match="the compiler gave no program text"):
    Module("HloModule nothing")

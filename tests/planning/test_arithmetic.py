"""FLOPs by hand, of products that are written as convolutions."""

import pytest

from taskmoe_jax.planning.arithmetic import flops_of, kernel_cost
from taskmoe_jax.planning.hlo import Module
from tests.planning.test_hlo import PROGRAM

_PROGRAM = """\
ENTRY %main (l: bf16[{left}], r: bf16[{right}]) -> bf16[{out}] {{
  %l = bf16[{left}]{{0}} parameter(0)
  %r = bf16[{right}]{{0}} parameter(1)
  ROOT %c = bf16[{out}]{{0}} {operation}
}}
"""


def flops(left, right, out, operation):
  text = _PROGRAM.format(left=left, right=right, out=out, operation=operation)
  return flops_of(Module(text))


@pytest.mark.parametrize(
  ("left", "right", "out", "window", "labels", "products"),
  [
    # [4, 6] x [6, 10].
    ("4,6", "6,10", "4,10", "", "bf_io->bf", 4 * 6 * 10),
    # [3, 5, 6] x [6, 10], 3 as a place: a kernel of one.
    ("3,5,6", "1,6,10", "3,5,10", "size=1", "0bf_0io->0bf", 3 * 5 * 6 * 10),
    # A product for each of 4: places 4 apart, of which a kernel of 4 meets one.
    (
      "4,5,6",
      "4,6,10",
      "4,5,10",
      "size=4 stride=3 lhs_dilate=4",
      "0bf_0io->0bf",
      4 * 5 * 6 * 10,
    ),
    # [5, 6] x [6, 8, 10] to [5, 8, 10]: 8 places, seven of padding each side.
    (
      "5,6,1",
      "6,8,10",
      "5,8,10",
      "size=8 pad=7_7 rhs_reversal=1",
      "bf0_i0o->b0f",
      5 * 6 * 8 * 10,
    ),
    # Two places of three under a kernel of two, without padding.
    ("5,3,6", "2,6,10", "5,2,10", "size=2", "b0f_0io->b0f", 5 * 4 * 6 * 10),
  ],
)
def test_convolutions(left, right, out, window, labels, products):
  operation = f"convolution(%l, %r), window={{{window}}}, dim_labels={labels}"
  assert flops(left, right, out, operation) == 2 * products


def test_a_dot():
  operation = (
    "dot(%l, %r), lhs_batch_dims={0}, lhs_contracting_dims={2},"
    " rhs_batch_dims={0}, rhs_contracting_dims={1}"
  )
  assert flops("3,4,6", "3,6,10", "3,4,10", operation) == 2 * 3 * 4 * 6 * 10


def test_a_kernel_says_itself():
  operation = (
    'custom-call(%l, %r), custom_call_target="tpu_custom_call",'
    ' backend_config={"custom_call_config":{"cost_estimate":{"flops":"480",'
    '"transcendentals":"0","bytes_accessed":"90"}}}'
  )
  assert flops("4,6", "6,10", "4,10", operation) == 480
  text = _PROGRAM.format(
    left="4,6", right="6,10", out="4,10", operation=operation
  )
  (*_, kernel) = Module(text).computations["main"]
  assert kernel_cost(kernel) == (480, 90)


def test_inside_fusions_and_loops():
  assert flops_of(Module(PROGRAM)) == 2 * 4 * 6 * 10
  moved = PROGRAM.replace(
    "  %y = f32[8]{0:T(128)} add(%x, %x)",
    "  %f = bf16[4,10] fusion(%x, %x), kind=kOutput, calls=%fused\n"
    "  %y = f32[8]{0:T(128)} add(%x, %x)",
  )
  assert flops_of(Module(moved)) == (1 + 15) * 2 * 4 * 6 * 10

"""Reads the text of a compiled program: what runs, in which order, how often.

XLA's own totals (`Compiled.cost_analysis`) count every loop once, and our
layers are scanned: so the instructions are read one by one, and each counts as
often as its loop iterates. The text of a program for TPUs is in the order of
its schedule.

  ENTRY %main (p: f32[8]) -> f32[8] {
    %p = f32[8]{0:T(128)} parameter(0)
    ROOT %all-reduce.1 = f32[8]{0:T(128)} all-reduce(%p), replica_groups={}
  }
"""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

from taskmoe_jax.errors import TaskMoeError

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^  (ROOT )?%?([\w.\-]+) = (.*)$")
_ARRAY = re.compile(r"\b(pred|token|[a-z]+\d+\w*)\[([\d,]*)\](\{[^}]*\})?")
_CALLED = re.compile(
  r"\b(calls|body|condition|to_apply|true_computation|false_computation"
  r"|called_computations|branch_computations)=\{?(%[\w.\-]+(?:, ?%[\w.\-]+)*)"
)
_BITS = re.compile(r"\d+")


@dataclasses.dataclass(frozen=True)
class Shape:
  """An array: its type, its sizes and its layout in memory."""

  dtype: str
  dims: tuple[int, ...]
  layout: str = ""

  @property
  def size(self) -> int:
    return math.prod(self.dims)

  @property
  def item_bits(self) -> int:
    found = _BITS.search(self.dtype)
    return int(found[0]) if found else 8 * (self.dtype == "pred")

  @property
  def num_bytes(self) -> int:
    """Without the padding of tiles: what is computed and sent."""
    return self.size * self.item_bits // 8

  @property
  def bytes_in_memory(self) -> int:
    """With its two minor axes padded to whole tiles."""
    tile = re.search(r"T\((\d+)(?:,(\d+))?\)", self.layout)
    order = re.match(r"\{([\d,]+)", self.layout)
    if not tile or not order:
      return self.num_bytes
    fastest = [int(axis) for axis in order[1].split(",") if axis]
    tiles = [int(side) for side in tile.groups() if side][::-1]
    dims = list(self.dims)
    for axis, side in zip(fastest, tiles, strict=False):
      dims[axis] = -(-dims[axis] // side) * side
    return math.prod(dims) * self.item_bits // 8

  @property
  def in_main_memory(self) -> bool:
    """Whether it is in HBM, not in a memory on the chip (`S(1)`)."""
    return not re.search(r"S\([1-9]", self.layout)

  def __str__(self) -> str:
    return f"{self.dtype}[{','.join(map(str, self.dims))}]"


@dataclasses.dataclass(frozen=True)
class Instruction:
  """One line.

  Attributes:
    name: Unique in the program.
    opcode: What it does, such as `fusion`.
    shapes: What it gives; several for a tuple.
    operands: Names of what it reads.
    text: All that follows the opcode.
  """

  name: str
  opcode: str
  shapes: tuple[Shape, ...]
  operands: tuple[str, ...]
  text: str

  @functools.cached_property
  def called(self) -> dict[str, list[str]]:
    """Names of computations, by the role in which they are called."""
    return {
      role: [name.strip(" %") for name in names.split(",")]
      for role, names in _CALLED.findall(self.text)
    }

  @property
  def op_name(self) -> str:
    """Which line of the model it comes from, as JAX names it."""
    return self.attribute(r'op_name="([^"]*)"') or ""

  @property
  def cycles(self) -> int | None:
    """The TPU compiler's estimate for one execution, if it has one."""
    found = self.attribute(r'"estimated_cycles":"(\d+)"')
    return int(found) if found else None

  def attribute(self, pattern: str) -> str | None:
    found = re.search(pattern, self.text)
    return found[1] if found else None


class Module:
  """All computations of a program, and how often each line of them runs."""

  def __init__(self, text: str):
    self.computations: dict[str, list[Instruction]] = {}
    self.shapes: dict[str, tuple[Shape, ...]] = {}
    self.entry = ""
    current = None
    for line in text.splitlines():
      if current is None:
        header = _COMPUTATION.match(line)
        if header:
          current = self.computations.setdefault(header[2], [])
          self.entry = header[2] if header[1] else self.entry
      elif line.startswith("}"):
        current = None
      elif found := _INSTRUCTION.match(line):
        instruction = _instruction(found[2], found[3])
        current.append(instruction)
        self.shapes[instruction.name] = instruction.shapes
    if not self.entry:
      raise TaskMoeError(
        "the compiler gave no program text: an executable that was read back"
        " from a cache may have none. Set --cache_dir to another folder."
      )

  def executed(self) -> Iterator[tuple[Instruction, int]]:
    """Each instruction in its order, and how often a step runs it.

    The inside of a fusion is not listed. All branches of a conditional are, as
    if each were taken: the most expensive one alone would hide what the others
    do. A loop whose trip count is unknown counts once.
    """
    yield from self._executed(self.entry, 1)

  def _executed(self, name: str, times: int):
    for instruction in self.computations[name]:
      yield instruction, times
      called = instruction.called
      if instruction.opcode == "while":
        iterations = self.trip_count(instruction) or 1
        yield from self._executed(called["body"][0], times * iterations)
      elif instruction.opcode in ("call", "conditional", "async-start"):
        for role, names in called.items():
          if role != "to_apply" or instruction.opcode == "call":
            for inner in names:
              yield from self._executed(inner, times)

  def inside(self, instruction: Instruction) -> Iterator[Instruction]:
    """The instruction itself and, for a fusion, all that it holds."""
    yield instruction
    if instruction.opcode == "fusion":
      for inner in self.computations[instruction.called["calls"][0]]:
        yield from self.inside(inner)

  def trip_count(self, loop: Instruction) -> int | None:
    """Iterations of a `while` that counts from 0 to a constant."""
    known = loop.attribute(r'"known_trip_count":\{"n":"(\d+)"\}')
    if known:
      return int(known)
    lines = self.computations[loop.called["condition"][0]]
    bounds = [
      int(line.text[: line.text.index(")")])
      for line in lines
      if line.opcode == "constant" and line.shapes[0].dtype == "s32"
    ]
    counts = sum(line.opcode == "compare" for line in lines) == 1
    return bounds[0] if counts and len(bounds) == 1 else None


def _instruction(name: str, rest: str) -> Instruction:
  """Parses what follows `%name = `."""
  end = _end_of_type(rest)
  shapes = tuple(
    Shape(dtype, tuple(map(int, filter(None, dims.split(",")))), layout)
    for dtype, dims, layout in _ARRAY.findall(rest[:end])
  )
  opcode, _, text = rest[end + 1 :].partition("(")
  operands = tuple(re.findall(r"%([\w.\-]+)", text.partition(")")[0]))
  return Instruction(name, opcode, shapes, operands, text)


def _end_of_type(rest: str) -> int:
  """Where the type ends: a tuple type contains spaces and brackets."""
  if not rest.startswith("("):
    return rest.index(" ")
  depth = 0
  for place, letter in enumerate(rest):
    depth += (letter == "(") - (letter == ")")
    if depth == 0:
      return place + 1
  raise AssertionError(rest)

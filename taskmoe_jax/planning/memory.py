"""What a compiled step needs of a device's main memory."""

import dataclasses
import re

import jax

from taskmoe_jax.planning.hlo import Module

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
# Lines that make no array of their own.
_VIEWS = {
  "parameter",
  "get-tuple-element",
  "tuple",
  "bitcast",
  "while",
  "conditional",
  "call",
  "constant",
}


@dataclasses.dataclass(frozen=True)
class Temporary:
  """An array that a step makes on its way.

  Attributes:
    num_bytes: As it lies in memory.
    shape: Such as `bf16[3,32,128,2048]`.
    origin: The line of the model that makes it, as JAX names it.
  """

  num_bytes: int
  shape: str
  origin: str


@dataclasses.dataclass(frozen=True)
class DeviceMemory:
  """Bytes on one device while a step runs.

  Attributes:
    arguments: State, and the batch.
    temporaries: What the step makes on its way, all of it together.
    output: The next state, and metrics.
    shared: Of the output, what takes the place of arguments.
    code: The program.
  """

  arguments: int
  temporaries: int
  output: int
  shared: int
  code: int

  @property
  def total(self) -> int:
    held = self.arguments + self.output - self.shared
    return held + self.temporaries + self.code


def memory_of(compiled: jax.stages.Compiled) -> DeviceMemory:
  """As the compiler has laid it out."""
  found = compiled.memory_analysis()
  return DeviceMemory(
    found.argument_size_in_bytes,
    found.temp_size_in_bytes,
    found.output_size_in_bytes,
    found.alias_size_in_bytes,
    found.generated_code_size_in_bytes,
  )


def needed_memory(message: str) -> int | None:
  """Bytes that a program would have needed, by the compiler's refusal.

  It counts arguments and output with the temporaries. None for a refusal of
  another kind.
  """
  found = re.search(
    r"total memory required[^(]*\(([\d.]+)([KMGT]?)\) exceeds"
    r"|[Uu]sed ([\d.]+)([KMGT]?) of",
    message,
  )
  if not found:
    return None
  number, unit = [part for part in found.groups() if part is not None][:2]
  return round(float(number) * _UNITS[unit])


def largest_temporaries(module: Module, number: int = 5) -> list[Temporary]:
  """The largest arrays in main memory that are neither given nor returned.

  Arrays of the same shape that one line of the model makes count once: a loop
  hands an array on under many names.
  """
  returned = set(module.computations[module.entry][-1].operands)
  found: dict[tuple[str, str], Temporary] = {}
  for line, _ in module.executed():
    if line.opcode in _VIEWS or line.name in returned:
      continue
    for shape in line.shapes:
      if shape.in_main_memory:
        temporary = Temporary(
          shape.bytes_in_memory, str(shape), _origin(line.op_name)
        )
        found[temporary.shape, temporary.origin] = temporary
  ordered = sorted(found.values(), key=lambda t: (-t.num_bytes, not t.origin))
  unique: dict[str, Temporary] = {}
  for temporary in ordered:
    unique.setdefault(temporary.shape, temporary)
  return list(unique.values())[:number]


def _origin(op_name: str) -> str:
  """The end of a name, which says most, without the names of all loops."""
  parts = [
    part
    for part in op_name.split("/")
    if not re.match(r"(jit\(|while|body|closed_call|blocks)", part)
  ]
  return "/".join(parts[-3:])

"""How much of a device's main memory a compiled step needs."""

import dataclasses
import re

import jax

from taskmoe_jax.planning.hlo import Module

_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40, "": 1}
# Operations that allocate no array.
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
  """An intermediate array of a step.

  Attributes:
    num_bytes: As laid out in memory, padding included.
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
    arguments: The state and the batch.
    temporaries: All intermediate arrays together.
    output: The next state and the metrics.
    shared: The part of the output that reuses the memory of arguments.
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
  assert found is not None
  return DeviceMemory(
    found.argument_size_in_bytes,
    found.temp_size_in_bytes,
    found.output_size_in_bytes,
    found.alias_size_in_bytes,
    found.generated_code_size_in_bytes,
  )


def needed_memory(message: str) -> int | None:
  """Bytes that a program would have needed, from the compiler's error message.

  They include arguments and output. None for an error of another kind.
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

  Arrays of one shape from one line of the model count once: a loop passes an
  array on under many names.
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
  """The informative end of a name, without the names of loops."""
  parts = [
    part
    for part in op_name.split("/")
    if not re.match(r"(jit\(|while|body|closed_call|blocks)", part)
  ]
  return "/".join(parts[-3:])

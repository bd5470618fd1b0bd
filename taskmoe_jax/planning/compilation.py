"""Compiles a step for a topology and measures the compiled program."""

import contextlib
import dataclasses
import pickle
import time
from collections.abc import Iterator

import jax
from etils import epath
from jax.experimental import serialize_executable

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.models.flops import TRAINING, token_flops
from taskmoe_jax.planning.arithmetic import flops_of
from taskmoe_jax.planning.collectives import collectives_of
from taskmoe_jax.planning.communication_bound import communication_lower_bound
from taskmoe_jax.planning.hlo import Module
from taskmoe_jax.planning.memory import (
  DeviceMemory,
  largest_temporaries,
  memory_of,
  needed_memory,
)
from taskmoe_jax.planning.pod_report import Report
from taskmoe_jax.planning.programs import Plan, Step, bytes_of, sub_network
from taskmoe_jax.planning.time_estimate import estimate
from taskmoe_jax.planning.topologies import Topology, slices_of


def compile_step(
  plan: Plan, step: Step, topology: Topology, *, name: str
) -> tuple[Report, jax.stages.Compiled | None]:
  """Compiles one step and reports on it.

  Returns:
    The report, and the program; None if it needs more memory than the device
    has, which is a result, not an error.
  """
  lowered, operands = plan.traced(step)
  begin = time.perf_counter()
  try:
    compiled = lowered.compile()
  except jax.errors.JaxRuntimeError as error:
    needed = needed_memory(str(error))
    if needed is None:
      raise
    arguments = bytes_of(operands)
    refused = dataclasses.replace(
      _known_before(plan, step, topology, name),
      memory=DeviceMemory(arguments, max(0, needed - arguments), 0, 0, 0),
      compile_s=time.perf_counter() - begin,
    )
    return refused, None
  compile_s = time.perf_counter() - begin
  mesh = plan.partitioning.mesh
  module = Module(compiled.as_text() or "")
  memory = memory_of(compiled)
  report = dataclasses.replace(
    _known_before(plan, step, topology, name),
    memory=memory,
    fits=memory.total <= topology.hbm_bytes,
    flops=flops_of(module),
    time=estimate(module, mesh, topology),
    collectives=collectives_of(module, mesh, slices_of(mesh)),
    communication_bound=(
      communication_lower_bound(plan) if step is Step.TRAIN else None
    ),
    compile_s=compile_s,
    temporaries=largest_temporaries(module),
  )
  return report, compiled


def _known_before(
  plan: Plan, step: Step, topology: Topology, name: str
) -> Report:
  return Report(
    name=name,
    mesh=dict(plan.partitioning.mesh.shape),
    devices=plan.partitioning.mesh.size,
    parameters=plan.num_parameters(step),
    hbm_bytes=topology.hbm_bytes,
    memory=DeviceMemory(0, 0, 0, 0, 0),
    fits=False,
    flops=None,
    model_flops=model_flops(plan, step) / plan.partitioning.mesh.size,
    peak_flops=topology.peak_flops,
    time=None,
    collectives=None,
    communication_bound=None,
    compile_s=0.0,
    temporaries=(),
  )


def model_flops(plan: Plan, step: Step) -> float:
  """FLOPs that the mathematics of a step needs, on all devices together.

  A decoding step attends to its whole key-value cache; the source's keys and
  values were computed before it.
  """
  model = sub_network(plan.model) if step is Step.EXPORT else plan.model
  token = token_flops(
    model,
    source_length=plan.batches.source_length,
    target_length=plan.batches.target_length,
  )
  if step in (Step.DECODE, Step.EXPORT):
    return float(token.target * plan.batches.batch_size)
  forward = (
    token.source * plan.batches.source_length
    + token.target * plan.batches.target_length
  ) * plan.batches.batch_size
  return float(TRAINING * forward if step is Step.TRAIN else forward)


def store(
  compiled: jax.stages.Compiled, folder: epath.PathLike, name: str
) -> epath.Path:
  """Writes a program, to be run on this topology by the same JAX.

  `jax.experimental.serialize_executable.deserialize_and_load` takes the three
  objects that the file holds, pickled.

  Raises:
    TaskMoeError: The folder cannot be written to.
  """
  path = epath.Path(folder) / f"{name}.executable"
  try:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, pickle.dumps(serialize_executable.serialize(compiled)))
  except OSError as error:
    raise TaskMoeError(
      f"cannot write {str(path)!r} ({error.strerror}). Set --store to a folder"
      " that can be written to."
    ) from None
  return path


@contextlib.contextmanager
def cache_in(folder: str | None) -> Iterator[None]:
  """Makes JAX keep what is compiled inside in its compilation cache.

  `train` with the same folder, JAX, libtpu and topology finds it there.
  """
  if folder is None:
    yield
    return
  names = {
    "jax_compilation_cache_dir": folder,
    "jax_persistent_cache_min_compile_time_secs": 0.0,
  }
  before = {name: getattr(jax.config, name) for name in names}
  try:
    for name, value in names.items():
      jax.config.update(name, value)
    yield
  finally:
    for name, value in before.items():
      jax.config.update(name, value)

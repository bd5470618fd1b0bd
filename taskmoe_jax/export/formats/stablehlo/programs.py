"""A sub-network as StableHLO: three programs that JAX alone can run.

  start   sources [B, S], places [B, M, T]         -> memory
  step    tokens [B, M], memory, position, places  -> logits [B, M, V], memory
  greedy  sources [B, S], limits [B]               -> tokens [B, 2S+32], scores

Before these come the parameters, as a list. So a program is as large as its
code, and those of two sub-networks with the same widths are the same. B, S, M
and T are left open, and each program is for CPU, CUDA and TPU alike. M are
hypotheses that may change places at every step, as those of a beam do: `places`
says at which one each stood at each of its T steps (see `layers.attention`).
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import PyTree

from taskmoe_jax.decoding.generate import Rows, generate
from taskmoe_jax.decoding.search import GREEDY, USUAL_LENGTHS
from taskmoe_jax.models.config import ComputeDtype, ModelConfig
from taskmoe_jax.models.parameters import abstract_params, unrolled
from taskmoe_jax.models.transformer import Transformer

PLATFORMS = ("cpu", "cuda", "tpu")


@dataclasses.dataclass(frozen=True)
class Programs:
  """Serialised programs, and what they are to be called with.

  Attributes:
    serialized: By name: `start`, `step` and `greedy`.
    parameters: Of each parameter in its order: its name in a bundle, and the
      block to cut out of it; None for all of it.
  """

  serialized: dict[str, bytes]
  parameters: tuple[tuple[str, int | None], ...]


# In one export most tasks have the same.
@functools.lru_cache(maxsize=1)
def export_programs(model: ModelConfig) -> Programs:
  """Traces the programs of a dense model, in float32."""
  config = dataclasses.replace(model, dtype=ComputeDtype.FLOAT32)
  params = jax.eval_shape(
    functools.partial(unrolled, config=config),
    nn.unbox(abstract_params(Transformer(config, num_tasks=1))),
  )
  program = _Program(Transformer(config, num_tasks=1, unrolled=True), params)
  leaves = jax.tree.leaves(params)
  b, s, m, t = jax.export.symbolic_shape("b, s, m, t")
  start = _export(program.start, leaves, _ids(b, s), _ids(b, m, t))
  memory = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in start.out_avals]
  step = _export(
    program.step, leaves, _ids(b, m), memory, _ids(), _ids(b, m, t)
  )
  greedy = _export(program.greedy, leaves, _ids(b, s), _ids(b))
  exported = {"start": start, "step": step, "greedy": greedy}
  return Programs(
    {name: bytes(of_one.serialize()) for name, of_one in exported.items()},
    tuple(
      _in_bundle([entry.key for entry in path])
      for path, _ in jax.tree_util.tree_leaves_with_path(params)
    ),
  )


class _Program:
  """What is traced: lists of arrays in and out, since files have no trees."""

  def __init__(self, module: Transformer, params: PyTree):
    self._module = module
    self._tree = jax.tree.structure(params)
    self._memory = None

  def start(self, leaves, sources, places):
    memory = self._apply(
      leaves,
      sources,
      _no_tasks(sources),
      places.shape[2],
      num_hypotheses=places.shape[1],
      method="start_decoding",
    )
    memory, self._memory = jax.tree.flatten(memory)
    return memory

  def step(self, leaves, tokens, memory, position, places):
    memory = jax.tree.unflatten(self._memory, memory)
    logits, memory = self._apply(
      leaves, tokens, memory, position, places, method="decode_step"
    )
    return logits, jax.tree.leaves(memory)

  def greedy(self, leaves, sources, limits):
    rows = sources.shape[0]
    found = generate(
      jax.tree.unflatten(self._tree, leaves),
      Rows(
        sources=sources,
        task_ids=_no_tasks(sources),
        limits=limits,
        prefixes=jnp.zeros((rows, 0), jnp.int32),
        keys=jnp.zeros((rows, 2), jnp.uint32),
      ),
      model=self._module,
      search=GREEDY,
      target_length=USUAL_LENGTHS.target_limit(sources.shape[1]),
      rows_per_task_group=1,
    )
    return found.tokens[:, 0], found.scores[:, 0]

  def _apply(self, leaves, *args, **settings):
    params = jax.tree.unflatten(self._tree, leaves)
    return self._module.apply({"params": params}, *args, **settings)


def _no_tasks(sources: jax.Array) -> jax.Array:
  """Tasks of the rows, which a dense model ignores."""
  return jnp.zeros((sources.shape[0],), jnp.int32)


def _export(function: Callable, *args: Any) -> jax.export.Exported:
  return jax.export.export(jax.jit(function), platforms=PLATFORMS)(*args)


def _ids(*shape: Any) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.int32)


def _in_bundle(names: list[str]) -> tuple[str, int | None]:
  """Where a bundle has a parameter: its decoder's blocks are stacked there."""
  stack, block, *rest = names
  if stack == "decoder" and block.startswith("block_"):
    number = int(block.removeprefix("block_"))
    return "/".join((stack, "blocks", *rest)), number
  return "/".join(names), None

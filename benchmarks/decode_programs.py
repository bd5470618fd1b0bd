"""Models of random weights as programs that decode."""

import argparse
import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Int, PyTree

from taskmoe_jax import axes
from taskmoe_jax.decoding.generate import Rows, generate
from taskmoe_jax.decoding.search import GREEDY, Beam, Search
from taskmoe_jax.decoding.translations import Hypotheses
from taskmoe_jax.layers.feed_forward import Activation
from taskmoe_jax.models.config import (
  ComputeDtype,
  Embeddings,
  ModelConfig,
  StackConfig,
)
from taskmoe_jax.models.parameters import (
  abstract_params,
  parameter_shardings,
  unrolled,
  with_shardings,
)
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.moe.config import Dispatch, MoeConfig
from taskmoe_jax.moe.granularity import GRANULARITIES
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.vocabulary import EOS_ID

_TASKS = 16


@dataclasses.dataclass(frozen=True)
class Setting:
  """What is decoded, and how.

  Attributes:
    model: Its sizes. A sub-network has the widths F and K·F in turn.
    search: How to search.
    source: Tokens of each source.
    steps: Tokens of each translation.
  """

  model: ModelConfig
  search: Search
  source: int
  steps: int

  @classmethod
  def from_flags(cls, flags: argparse.Namespace, name: str) -> "Setting":
    """One of the models that `decode` compares."""

    def stack():
      widths = (flags.mlp_dim,)
      if name == "sub_network":
        widths = (flags.mlp_dim, 2 * flags.mlp_dim)
      moe = None
      if name in ("task", "token"):
        moe = MoeConfig(
          granularity=GRANULARITIES[name],
          num_experts=flags.experts,
          num_selected=2,
          expert_mlp_dim=flags.mlp_dim,
          dispatch=Dispatch.AUTO,
          capacity_factor=1.25,
          group_size=1024,
          balance_loss_weight=0.0,
          z_loss_weight=0.0,
        )
      return StackConfig(num_layers=flags.layers, mlp_dims=widths, moe=moe)

    model = ModelConfig(
      vocab_size=flags.vocab_size,
      embed_dim=flags.embed_dim,
      num_heads=flags.heads,
      head_dim=flags.embed_dim // flags.heads,
      activation=Activation.RELU,
      embeddings=Embeddings.ONE,
      encoder=stack(),
      decoder=stack(),
      dtype=ComputeDtype(flags.dtype),
    )
    search: Search = GREEDY
    if flags.beam_size > 1:
      search = Beam(size=flags.beam_size, length_penalty=0.6)
    return cls(model, search, flags.source, flags.steps)

  @property
  def transformer(self) -> Transformer:
    return Transformer(self.model, _TASKS)


def random_params(setting: Setting, partitioning: Partitioning) -> PyTree:
  """Parameters unrolled for decoding."""
  return unrolled(scanned_params(setting, partitioning), setting.model)


def scanned_params(setting: Setting, partitioning: Partitioning) -> PyTree:
  """Draws parameters with the scales of T5."""
  rng = np.random.default_rng(0)

  def draw(path, leaf):
    kind = path[-1].key
    fan_in = leaf.shape[-2] if kind in ("wi", "wo") else setting.model.embed_dim
    scale = 1.0 if kind == "table" else fan_in**-0.5
    if kind == "scale":
      values = np.ones(leaf.shape, np.float32)
    else:
      values = rng.standard_normal(leaf.shape, np.float32)
      values *= scale * (0.125 if kind == "query" else 1.0)
    return jax.device_put(values, leaf.sharding)

  shapes = _shapes(setting, partitioning)
  return jax.tree_util.tree_map_with_path(draw, shapes)


def sources(setting: Setting, num_rows: int) -> Int[np.ndarray, "B S"]:
  """The same random sentences every time, each with its end."""
  found = np.random.default_rng(1).integers(
    EOS_ID + 1, setting.model.vocab_size, (num_rows, setting.source)
  )
  found[:, -1] = EOS_ID
  return found.astype(np.int32)


def translation(
  setting: Setting, params: PyTree, partitioning: Partitioning, num_rows: int
) -> Callable[[], Hypotheses]:
  """Translates a batch of random sources of one task."""
  rows = Rows(
    sources=sources(setting, num_rows),
    task_ids=np.full(num_rows, 3, np.int32),
    limits=np.full(num_rows, setting.steps, np.int32),
    prefixes=np.zeros((num_rows, 0), np.int32),
    keys=np.zeros((num_rows, 2), np.uint32),
  )
  rows = jax.tree.map(partitioning.spread_rows, rows)
  return lambda: generate(
    params,
    rows,
    model=setting.transformer.clone(unrolled=True),
    search=setting.search,
    target_length=setting.steps,
    rows_per_task_group=num_rows // partitioning.num_row_shards,
    partitioning=partitioning,
  )


def compiled_step(
  setting: Setting, partitioning: Partitioning, num_rows: int
) -> jax.stages.Compiled:
  """Compiles one step of greedy decoding, or of `size` hypotheses a row."""
  model = setting.transformer.clone(unrolled=True)
  size = setting.search.num_hypotheses
  on_rows = partitioning.sharding(axes.ACT_BATCH)

  def laid(leaf):
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on_rows)

  def rows_of(*shape):
    return jax.ShapeDtypeStruct((num_rows, *shape), jnp.int32, sharding=on_rows)

  params = _unrolled_shapes(setting, partitioning)

  def start(params, sources, task_ids):
    return model.apply(
      {"params": params},
      sources,
      task_ids,
      setting.steps,
      num_hypotheses=size,
      rows_per_task_group=num_rows // partitioning.num_row_shards,
      method="start_decoding",
    )

  def step(params, tokens, memory, position, places):
    logits, memory = model.apply(
      {"params": params},
      tokens,
      memory,
      position,
      places,
      method="decode_step",
    )
    return jnp.argmax(logits, axis=-1), memory

  with activate(partitioning):
    memory = jax.eval_shape(start, params, rows_of(setting.source), rows_of())
    position = jax.ShapeDtypeStruct(
      (), jnp.int32, sharding=partitioning.replicated
    )
    return (
      jax.jit(step, donate_argnums=2)
      .lower(
        params,
        rows_of(size),
        jax.tree.map(laid, memory),
        position,
        rows_of(size, setting.steps),
      )
      .compile()
    )


def _shapes(setting: Setting, partitioning: Partitioning) -> PyTree:
  boxed = abstract_params(setting.transformer)
  shardings = parameter_shardings(boxed, partitioning)
  return with_shardings(nn.unbox(boxed), shardings)


def _unrolled_shapes(setting: Setting, partitioning: Partitioning) -> PyTree:
  """As `unrolled` makes them, without any."""
  shapes = _shapes(setting, partitioning)
  flat = jax.eval_shape(lambda p: unrolled(p, setting.model), shapes)
  blocks = shapes["decoder"]["blocks"]

  def laid(path, leaf):
    names = [entry.key for entry in path]
    if names[1:2] and names[1].startswith("block_"):
      whole = blocks
      for name in names[2:]:
        whole = whole[name]
      spec = jax.sharding.PartitionSpec(*whole.sharding.spec[1:])
    else:
      whole = shapes
      for name in names:
        whole = whole[name]
      spec = whole.sharding.spec
    sharding = jax.sharding.NamedSharding(partitioning.mesh, spec)
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

  return jax.tree_util.tree_map_with_path(laid, flat)

"""Programs of one batch, compiled for each shape: generating and scoring."""

import contextlib
import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree, UInt32

from taskmoe_jax.decoding.beam import beam_search
from taskmoe_jax.decoding.sampling import greedy_or_sample
from taskmoe_jax.decoding.search import Beam, Search
from taskmoe_jax.decoding.translations import Arrays, Hypotheses, Steps
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.vocabulary import PAD_ID, right_shift


@functools.partial(
  jax.jit, static_argnames=("model", "rows_per_task_group", "partitioning")
)
def log_probabilities(
  params: PyTree,
  sources: Int[Array, "B S"],
  targets: Int[Array, "B T"],
  task_ids: Int[Array, "B"],
  *,
  model: Transformer,
  rows_per_task_group: int,
  partitioning: Partitioning | None = None,
) -> Float[Array, "B T"]:
  """Log-probability of every target token; undefined for padding."""
  batch = {
    "encoder_input_tokens": sources,
    "decoder_input_tokens": right_shift(targets, jnp),
    "decoder_loss_weights": (targets != PAD_ID).astype(jnp.float32),
  }

  def run():
    logits, _ = model.apply(
      {"params": params},
      batch,
      task_ids,
      train=False,
      rows_per_task_group=rows_per_task_group,
    )
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return picked - jax.nn.logsumexp(logits, axis=-1)

  if partitioning is None:
    return run()
  with activate(partitioning):
    found = run()
  return jax.lax.with_sharding_constraint(found, partitioning.replicated)


@flax.struct.dataclass
class Rows:
  """Sentences to be translated, one a row.

  Attributes:
    sources: Token ids with target symbol and end of sentence, then padding. A
      row of padding alone only fills up the batch.
    task_ids: Task of each row; a dense model ignores them.
    limits: Maximum lengths, including prefix and end of sentence.
    prefixes: What translations must begin with, then padding; `[B, 0]` without
      prefixes.
    keys: A random key of each row, as `jax.random.key_data` has it; only
      sampling reads them.
  """

  sources: Int[Arrays, "B S"]
  task_ids: Int[Arrays, "B"]
  limits: Int[Arrays, "B"]
  prefixes: Int[Arrays, "B P"]
  keys: UInt32[Arrays, "B 2"]


@functools.partial(
  jax.jit,
  static_argnames=(
    "model",
    "search",
    "target_length",
    "rows_per_task_group",
    "num_compactions",
    "partitioning",
  ),
)
def generate(
  params: PyTree,
  rows: Rows,
  *,
  model: Transformer,
  search: Search,
  target_length: int,
  rows_per_task_group: int,
  num_compactions: int = 0,
  partitioning: Partitioning | None = None,
) -> Hypotheses:
  """Translates a batch of rows.

  The source is encoded once, its keys and values are made once, and the loop
  stops when every row is finished.

  Args:
    params: The model's parameters, see `models.parameters`.
    rows: The sentences.
    model: An unrolled one: a mixture, or a sub-network.
    search: How to search.
    target_length: At least the greatest of the rows' limits.
    rows_per_task_group: Size of the groups of consecutive rows with one task.
    num_compactions: How often finished rows may leave the batch, see
      `decoding.compaction`. Each makes the program longer to compile.
    partitioning: How rows and parameters lie on a mesh, if they do.

  Returns:
    `search.n_best` hypotheses of each row, on all devices alike, so that every
    process can read them.
  """
  with activate(partitioning) if partitioning else contextlib.nullcontext():
    steps = _steps(
      params,
      rows,
      model,
      search,
      target_length,
      rows_per_task_group,
      num_compactions,
    )
    if isinstance(search, Beam):
      found = beam_search(steps, search)
    else:
      found = greedy_or_sample(steps, search)
  if partitioning is None:
    return found
  return jax.lax.with_sharding_constraint(found, partitioning.replicated)


def _steps(params, rows, model, search, target_length, group, num_compactions):
  """Encodes the sources."""
  variables = {"params": params}
  memory = model.apply(
    variables,
    rows.sources,
    rows.task_ids,
    target_length,
    num_hypotheses=search.num_hypotheses,
    rows_per_task_group=group,
    method="start_decoding",
  )
  empty = jnp.all(rows.sources == PAD_ID, axis=1)
  return Steps(
    step=functools.partial(model.apply, variables, method="decode_step"),
    memory=memory,
    limits=jnp.where(empty, 0, rows.limits),
    prefixes=rows.prefixes,
    keys=rows.keys,
    num_hypotheses=search.num_hypotheses,
    target_length=target_length,
    rows_per_group=group,
    num_compactions=num_compactions,
  )

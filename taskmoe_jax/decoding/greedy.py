"""Greedy decoding over a key-value memory."""

import functools

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from taskmoe_jax.models.transformer import DecodingMemory, Transformer
from taskmoe_jax.partitioning.rules import Partitioning, activate
from taskmoe_jax.vocabulary import EOS_ID, PAD_ID


@flax.struct.dataclass
class Hypotheses:
  """One translation for each row.

  Attributes:
    tokens: Token ids up to and with the end of sentence, then padding.
    scores: Sum of the log-probabilities of these tokens.
    finished: Whether the sentence ended within the target length.
  """

  tokens: Int[Array, "B T"]
  scores: Float[Array, "B"]
  finished: Bool[Array, "B"]


@flax.struct.dataclass
class _Progress:
  position: jax.Array
  last: jax.Array
  hypotheses: Hypotheses
  memory: DecodingMemory


@functools.partial(
  jax.jit,
  static_argnames=(
    "model",
    "partitioning",
    "target_length",
    "rows_per_task_group",
  ),
)
def greedy(
  params: PyTree,
  sources: Int[Array, "B S"],
  task_ids: Int[Array, "B"],
  *,
  model: Transformer,
  target_length: int,
  rows_per_task_group: int,
  partitioning: Partitioning | None = None,
) -> Hypotheses:
  """Takes the most likely token at every step, until all rows have ended.

  The source is encoded once, and its keys and values are made once. A row of
  padding has ended before it begins, so that a batch may be filled up.

  Args:
    params: Of the model.
    sources: Token ids with target symbol and end of sentence.
    task_ids: Task of each row; a dense model ignores them.
    model: A mixture, or a sub-network.
    target_length: Tokens after which an unfinished row is cut off.
    rows_per_task_group: Rows stand in groups of this many of one task each.
    partitioning: How rows and parameters lie on a mesh, if they do.
  """
  if partitioning is not None:
    with activate(partitioning):
      return _greedy(
        params, sources, task_ids, model, target_length, rows_per_task_group
      )
  return _greedy(
    params, sources, task_ids, model, target_length, rows_per_task_group
  )


def _greedy(
  params, sources, task_ids, model, target_length, rows_per_task_group
):
  variables = {"params": params}
  num_rows = sources.shape[0]
  start = _Progress(
    position=jnp.zeros((), jnp.int32),
    last=jnp.full((num_rows, 1), PAD_ID, jnp.int32),
    hypotheses=Hypotheses(
      tokens=jnp.full((num_rows, target_length), PAD_ID, jnp.int32),
      scores=jnp.zeros((num_rows,), jnp.float32),
      finished=jnp.all(sources == PAD_ID, axis=1),
    ),
    memory=model.apply(
      variables,
      sources,
      task_ids,
      target_length,
      rows_per_task_group=rows_per_task_group,
      method="start_decoding",
    ),
  )

  def going(now: _Progress) -> jax.Array:
    some = ~jnp.all(now.hypotheses.finished)
    return some & (now.position < target_length)

  def step(now: _Progress) -> _Progress:
    logits, memory = model.apply(
      variables, now.last, now.memory, now.position, method="decode_step"
    )
    best = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    done = now.hypotheses.finished
    token = jnp.where(done, PAD_ID, best)
    gain = jnp.max(jax.nn.log_softmax(logits), axis=-1)
    hypotheses = Hypotheses(
      tokens=jax.lax.dynamic_update_slice_in_dim(
        now.hypotheses.tokens, token[:, None], now.position, 1
      ),
      scores=now.hypotheses.scores + jnp.where(done, 0.0, gain),
      finished=done | (best == EOS_ID),
    )
    return _Progress(now.position + 1, token[:, None], hypotheses, memory)

  return jax.lax.while_loop(going, step, start).hypotheses

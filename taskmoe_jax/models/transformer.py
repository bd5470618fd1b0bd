"""The encoder-decoder Transformer, for training and for decoding."""

import dataclasses
from collections.abc import Mapping

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Bool, Float, Int

from taskmoe_jax import axes
from taskmoe_jax.layers.embeddings import TokenEmbedding
from taskmoe_jax.models.blocks import LayerMemory
from taskmoe_jax.models.config import Embeddings, ModelConfig
from taskmoe_jax.models.stacks import Stack
from taskmoe_jax.moe.router_inputs import RouterInputs, sentence_mean
from taskmoe_jax.moe.statistics import RoutingStatistics
from taskmoe_jax.partitioning.rules import constrain
from taskmoe_jax.vocabulary import PAD_ID

Batch = Mapping[str, jax.Array]


def source_segments(batch: Batch) -> Int[Array, "B S"]:
  """The sentence in its row that each source token is in; 0 for padding."""
  segments = batch.get("encoder_segment_ids")
  if segments is None:
    segments = (batch["encoder_input_tokens"] != PAD_ID).astype(jnp.int32)
  return segments


def target_segments(batch: Batch) -> Int[Array, "B T"]:
  """The sentence in its row that each target token is in; 0 for padding."""
  segments = batch.get("decoder_segment_ids")
  if segments is None:
    segments = (batch["decoder_loss_weights"] > 0).astype(jnp.int32)
  return segments


@flax.struct.dataclass
class DecodingMemory:
  """Everything a decoding step needs besides the last token.

  Attributes:
    layers: Keys and values of each layer of each block.
    source_mask: Which source positions hold tokens.
    router_inputs: The decoder's, made once per sentence; without the token of
      the step.
  """

  layers: list[list[LayerMemory]]
  source_mask: Bool[Array, "B 1 S"]
  router_inputs: RouterInputs


class Transformer(nn.Module):
  """T5's shape with MoE layers; see docs/design/engines.md.

  Task ids are those of the run's task space; a dense model ignores them.
  An `unrolled` model decodes; `models.parameters` makes its parameters.
  """

  config: ModelConfig
  num_tasks: int
  unrolled: bool = False

  def setup(self):
    config = self.config

    def embedding():
      return TokenEmbedding(
        config.vocab_size, config.embed_dim, jnp.dtype(config.dtype)
      )

    self.embedding = embedding()
    if config.embeddings is Embeddings.THREE:
      self.decoder_embedding = embedding()
      self.softmax = embedding()
    self.encoder = Stack(config, config.encoder, False, self.num_tasks)
    self.decoder = Stack(
      config, config.decoder, True, self.num_tasks, self.unrolled
    )

  def __call__(
    self,
    batch: Batch,
    task_ids: Int[Array, "B"],
    *,
    train: bool,
    rows_per_task_group: int = 1,
  ) -> tuple[Float[Array, "B T V"], dict[str, RoutingStatistics]]:
    """Logits of every target token, given those before it.

    Args:
      batch: Arrays under the names of the batch contract
        (docs/design/design.md).
      task_ids: Task of each row.
      train: Whether to drop out, and to drop what exceeds a capacity.
      rows_per_task_group: Size of the groups of consecutive rows with one task.

    Returns:
      Logits in float32, and statistics by stack, for stacks with MoE layers.
    """
    packed = "encoder_segment_ids" in batch
    encoded, source_segments, statistics = self.encode(
      batch["encoder_input_tokens"],
      task_ids,
      segment_ids=batch.get("encoder_segment_ids"),
      train=train,
      rows_per_task_group=rows_per_task_group,
    )
    segments = target_segments(batch)
    inputs = RouterInputs(
      task_ids=task_ids,
      segment_ids=segments,
      token_ids=batch["decoder_input_tokens"],
      sentence=sentence_mean(encoded, source_segments, segments, packed=packed),
      packed=packed,
      rows_per_task_group=rows_per_task_group,
    )
    same = segments[:, :, None] == segments[:, None, :]
    length = segments.shape[1]
    mask = same & jnp.tri(length, dtype=bool)[None]
    source_mask = segments[:, :, None] == source_segments[:, None, :]
    x = self._embed_target(batch["decoder_input_tokens"])
    x, found = self.decoder(x, inputs, mask, encoded, source_mask, train=train)
    if found is not None:
      statistics["decoder"] = found
    return self._logits(x), statistics

  def encode(
    self,
    tokens: Int[Array, "B S"],
    task_ids: Int[Array, "B"],
    *,
    segment_ids: Int[Array, "B S"] | None = None,
    train: bool = False,
    rows_per_task_group: int = 1,
  ) -> tuple[
    Float[Array, "B S D"], Int[Array, "B S"], dict[str, RoutingStatistics]
  ]:
    """Encodes sources; segment ids are given when rows are packed."""
    packed = segment_ids is not None
    if segment_ids is None:
      segment_ids = (tokens != PAD_ID).astype(jnp.int32)
    inputs = RouterInputs(
      task_ids=task_ids,
      segment_ids=segment_ids,
      token_ids=tokens,
      packed=packed,
      rows_per_task_group=rows_per_task_group,
    )
    mask = segment_ids[:, :, None] == segment_ids[:, None, :]
    x = self.embedding(tokens)
    encoded, found = self.encoder(x, inputs, mask, train=train)
    statistics = {} if found is None else {"encoder": found}
    return encoded, segment_ids, statistics

  def start_decoding(
    self,
    tokens: Int[Array, "B S"],
    task_ids: Int[Array, "B"],
    target_length: int,
    *,
    num_hypotheses: int = 1,
    rows_per_task_group: int = 1,
  ) -> DecodingMemory:
    """Encodes sources (one sentence a row) and makes an empty memory.

    All hypotheses of a sentence share its source's keys and values.
    """
    encoded, segments, _ = self.encode(
      tokens, task_ids, rows_per_task_group=rows_per_task_group
    )
    ones = jnp.ones((tokens.shape[0], num_hypotheses), jnp.int32)
    inputs = RouterInputs(
      task_ids=task_ids,
      segment_ids=ones,
      sentence=sentence_mean(encoded, segments, ones, packed=False),
      rows_per_task_group=rows_per_task_group,
    )
    return DecodingMemory(
      layers=self.decoder.start(encoded, inputs, target_length, num_hypotheses),
      source_mask=(segments > 0)[:, None, :],
      router_inputs=inputs,
    )

  def decode_step(
    self,
    tokens: Int[Array, "B M"],
    memory: DecodingMemory,
    position: Int[Array, ""],
    places: Int[Array, "B M T"],
  ) -> tuple[Float[Array, "B M V"], DecodingMemory]:
    """Logits of what follows `tokens`, which are at `position`.

    Args:
      tokens: The last token of each hypothesis.
      memory: The memory after the previous step.
      position: The target position, counted from 0.
      places: Slot index of each hypothesis at step t, for all steps up to this
        one. Without reordering, each keeps its own; 0 with one hypothesis.
    """
    x, layers = self.decoder.step(
      self._embed_target(tokens),
      memory.layers,
      dataclasses.replace(memory.router_inputs, token_ids=tokens),
      memory.source_mask,
      position,
      places,
    )
    return self._logits(x), dataclasses.replace(memory, layers=layers)

  def _embed_target(self, tokens):
    if self.config.embeddings is Embeddings.ONE:
      return self.embedding(tokens)
    return self.decoder_embedding(tokens)

  def _logits(self, x):
    x = constrain(x, axes.ACT_BATCH, axes.ACT_LENGTH, axes.ACT_EMBED)
    if self.config.embeddings is Embeddings.ONE:
      return self.embedding.logits(x)
    return self.softmax.logits(x)

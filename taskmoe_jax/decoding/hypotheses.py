"""Hypotheses, and a model as every search steps through it."""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from taskmoe_jax.vocabulary import PAD_ID

# On devices, and fetched from there.
Arrays = Array | np.ndarray


@flax.struct.dataclass
class Hypotheses:
  """M translations of each row.

  Attributes:
    tokens: Token ids up to and including the end of sentence, then padding.
    scores: What the search compares; see `decoding.search`.
    finished: Whether the sentence ended within its longest length.
  """

  tokens: Int[Arrays, "B M T"]
  scores: Float[Arrays, "B M"]
  finished: Bool[Arrays, "B M"]


@dataclasses.dataclass(frozen=True)
class Steps:
  """A model as a search sees it, and the rows.

  Attributes:
    step: Takes the last tokens `[B, M]`, the memory, their position and the
      places `[B, M, T]` of what came before; returns logits `[B, M, V]` of what
      follows and the new memory. See `Transformer.decode_step`.
    memory: The memory before the first step.
    limits: Maximum length of each row's translation; 0 for a row of padding.
    prefixes: What translations must begin with, then padding.
    keys: A random key of each row, as `jax.random.key_data` has it.
    num_hypotheses: M.
    target_length: T.
    rows_per_group: Size of the groups of consecutive rows that share a device
      and a task.
    num_compactions: How often a batch may be halved, see `decoding.compaction`.
  """

  step: Callable[..., tuple[jax.Array, PyTree]]
  memory: PyTree
  limits: Int[Array, "B"]
  prefixes: Int[Array, "B P"]
  keys: UInt32[Array, "B 2"]
  num_hypotheses: int
  target_length: int
  rows_per_group: int
  num_compactions: int

  @functools.cached_property
  def prefix_lengths(self) -> Int[Array, "B"]:
    return jnp.sum(self.prefixes != PAD_ID, axis=1)

  def forced(
    self, position: Int[Array, ""]
  ) -> tuple[Bool[Array, "B"], Int[Array, "B"]]:
    """Whether a prefix fixes the token at `position`, and which token."""
    if self.prefixes.shape[1] == 0:
      return jnp.zeros(self.limits.shape, bool), jnp.zeros_like(self.limits)
    column = jnp.minimum(position, self.prefixes.shape[1] - 1)
    token = jax.lax.dynamic_index_in_dim(
      self.prefixes, column, axis=1, keepdims=False
    )
    return position < self.prefix_lengths, token


def put_at(
  tokens: Int[Array, "B M T"], new: Int[Array, "B M"], position: Int[Array, ""]
) -> Int[Array, "B M T"]:
  """Writes one token of each hypothesis."""
  return jax.lax.dynamic_update_slice_in_dim(
    tokens, new[..., None], position, axis=2
  )

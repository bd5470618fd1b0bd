"""What is found, and the steps that every search takes."""

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
    tokens: Token ids up to and with the end of sentence, then padding.
    scores: What the search compares; see there.
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
    memory: Before the first step.
    limits: Longest translation of each row; 0 of a row that is only padding.
    prefixes: What translations must begin with, then padding.
    keys: Of each row's chances, as `jax.random.key_data` has them.
    num_hypotheses: M.
    target_length: T.
    rows_per_group: Rows stand in groups of this many, of one device and task.
    halvings: How often a batch may be halved; see `decoding.compaction`.
  """

  step: Callable[..., tuple[jax.Array, PyTree]]
  memory: PyTree
  limits: Int[Array, "B"]
  prefixes: Int[Array, "B P"]
  keys: UInt32[Array, "B 2"]
  num_hypotheses: int
  target_length: int
  rows_per_group: int
  halvings: int

  @functools.cached_property
  def prefix_lengths(self) -> Int[Array, "B"]:
    return jnp.sum(self.prefixes != PAD_ID, axis=1)

  def forced(
    self, position: Int[Array, ""]
  ) -> tuple[Bool[Array, "B"], Int[Array, "B"]]:
    """Whether a prefix says what stands at `position`, and what."""
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

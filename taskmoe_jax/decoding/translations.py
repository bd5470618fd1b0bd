"""What decoding gives back: hypotheses as arrays, then texts and scores.

Here is also the model as every search steps through it.
"""

import dataclasses
import functools
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from taskmoe_jax.vocabulary import EOS_ID, PAD_ID, Vocabulary

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


@dataclasses.dataclass(frozen=True)
class Hypothesis:
  """One translation of a line.

  Attributes:
    text: What it says.
    token_ids: As decoded: a prefix first, end of sentence included.
    score: What the search compared; see the kinds of `Search`.
    finished: False if it was cut off at the maximum length.
  """

  text: str
  token_ids: list[int]
  score: float
  finished: bool


@dataclasses.dataclass(frozen=True)
class Translations:
  """Translations of some lines, in their order.

  Attributes:
    n_best: Up to `Search.n_best` hypotheses of each line, best first. An empty
      line has one empty hypothesis.
  """

  n_best: list[list[Hypothesis]]

  @property
  def texts(self) -> list[str]:
    """The first hypothesis of each line; so are the other lists."""
    return [found[0].text for found in self.n_best]

  @property
  def token_ids(self) -> list[list[int]]:
    return [found[0].token_ids for found in self.n_best]

  @property
  def scores(self) -> list[float]:
    return [found[0].score for found in self.n_best]

  @property
  def finished(self) -> list[bool]:
    return [found[0].finished for found in self.n_best]


@dataclasses.dataclass(frozen=True)
class Score:
  """How likely one translation is.

  Attributes:
    token_ids: The translation's tokens, including the end of sentence.
    log_probabilities: The log-probability of each token, given the source and
      the tokens before it.
  """

  token_ids: list[int]
  log_probabilities: list[float]

  @property
  def total(self) -> float:
    """Log-probability of the whole translation, in nats."""
    return float(np.sum(self.log_probabilities, dtype=np.float64))


def read_hypotheses(
  found: Hypotheses, row: int, limit: int, vocabulary: Vocabulary
) -> list[Hypothesis]:
  """Reads the hypotheses of one row, as they came from the device.

  Args:
    found: The hypotheses of all rows of a batch.
    row: The row's index.
    limit: The row's maximum length.
    vocabulary: The model's vocabulary.
  """
  ids = []
  for tokens in found.tokens[row]:
    tokens = tokens[:limit].tolist()
    end = tokens.index(EOS_ID) + 1 if EOS_ID in tokens else limit
    ids.append(tokens[:end])
  fields = zip(
    vocabulary.decode(ids),
    ids,
    found.scores[row].tolist(),
    found.finished[row].tolist(),
    strict=True,
  )
  # With a small vocabulary there may be fewer than requested.
  return [Hypothesis(*of_one) for of_one in fields if of_one[2] != -np.inf]

"""How translations are searched for: greedily, by beams, or by sampling.

Plain data, without JAX: commands make one of these from their flags, gin files
bind them, and `Translator.decode` takes any.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any

from taskmoe_jax.errors import (
  TaskMoeError,
  as_members,
  check_at_least,
  check_members,
)


class Normalization(enum.StrEnum):
  """What a hypothesis of n tokens has its log-probability divided by.

  The end of sentence counts as a token, a forced prefix does not.
  """

  GNMT = "gnmt"  # ((5 + n) / 6)^alpha: arXiv 1609.08144, T5X, lingvo
  POWER = "power"  # n^alpha: Hugging Face, CTranslate2


class Stopping(enum.StrEnum):
  """When a sentence's search ends before its maximum length.

  These are Hugging Face's `early_stopping`. CTranslate2 does FULL, or, without
  length penalty, what gives the same best translation as SURE.
  """

  # As soon as `size` hypotheses have ended (True).
  FULL = "full"
  # When the best running one, at the length it has now, is no better than the
  # worst of `size` ended ones (False). A longer one might still become better.
  LIKELY = "likely"
  # When none can become better than the last of the `n_best` that are asked
  # for ("never", and T5X, which compare with the last of `size`: the result is
  # the same, and is found later).
  SURE = "sure"


@dataclasses.dataclass(frozen=True)
class Greedy:
  """The most likely token at every step. A score is a log-probability."""

  @property
  def num_hypotheses(self) -> int:
    """How many hypotheses of each sentence are searched at once."""
    return 1

  @property
  def n_best(self) -> int:
    return 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beam:
  """The best of `size` hypotheses that grow side by side.

  At every step the 2·size likeliest continuations are looked at. Those of the
  first `size` that end are kept as they are; the best that do not end
  continue. At the maximum length everything ends. So do Hugging Face and
  CTranslate2; T5X also keeps what ends among the second `size`.

  A score is the log-probability, divided as `normalization` says.

  Attributes:
    size: Hypotheses of each sentence.
    length_penalty: Alpha; 0 does not normalize, and favours short sentences.
    n_best: How many are returned, best first; at most `size`.
    stopping: When a sentence's search is over.
    normalization: What alpha is the exponent of.
  """

  size: int
  length_penalty: float
  n_best: int = 1
  stopping: Stopping = Stopping.LIKELY
  normalization: Normalization = Normalization.GNMT

  def __post_init__(self):
    check_members(
      "Beam",
      stopping=(Stopping, self.stopping),
      normalization=(Normalization, self.normalization),
    )
    check_at_least(1, "Beam", size=self.size, n_best=self.n_best)
    if self.n_best > self.size:
      raise TaskMoeError(
        f"n_best={self.n_best} is more than the beam's size={self.size}. Set"
        " Beam.n_best or Beam.size."
      )

  @classmethod
  def from_dict(cls, values: Mapping[str, Any]) -> "Beam":
    """Makes one of arguments whose enums are texts, as flags give them."""
    return cls(
      **as_members(
        {"stopping": Stopping, "normalization": Normalization}, "Beam", values
      )
    )

  @property
  def num_hypotheses(self) -> int:
    return self.size


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
  """Tokens drawn by their probability.

  A draw depends on the seed, the sentence, which of equal sentences it is, and
  the position: not on the batch or on the order of sentences. A score is the
  log-probability under the model as it is, without temperature or cuts.

  Attributes:
    temperature: Logits are divided by it; near 0 is greedy.
    top_k: Only the k most likely tokens can be drawn; all unless given.
    top_p: Only the smallest set of most likely tokens that has at least this
      probability can be drawn (after `top_k`); all unless given.
    n_best: How many translations of each sentence are drawn, in no order.
    seed: Another gives other translations.
  """

  temperature: float
  top_k: int | None = None
  top_p: float | None = None
  n_best: int = 1
  seed: int = 0

  def __post_init__(self):
    check_at_least(1, "Sampling", n_best=self.n_best)
    if self.top_k is not None:
      check_at_least(1, "Sampling", top_k=self.top_k)
    if not self.temperature > 0:
      raise TaskMoeError(
        f"temperature={self.temperature} is not above 0. Set"
        " Sampling.temperature."
      )
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise TaskMoeError(
        f"top_p={self.top_p} is outside (0, 1]. Set Sampling.top_p."
      )

  @property
  def num_hypotheses(self) -> int:
    return self.n_best


Search = Greedy | Beam | Sampling
GREEDY = Greedy()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths:
  """How long sources and translations may be, in tokens.

  Attributes:
    max_source: Maximum length of a source, with target symbol and end of
      sentence. A longer one is an error, or is truncated.
    truncate: Whether a longer source is truncated to `max_source`.
    max_target: Maximum length of a translation, with end of sentence, without a
      prefix.
      Unless given, twice the source and 32 more: it depends on the sentence
      alone.
  """

  max_source: int = 1024
  truncate: bool = False
  max_target: int | None = None

  def __post_init__(self):
    check_at_least(2, "Lengths", max_source=self.max_source)
    if self.max_target is not None:
      check_at_least(1, "Lengths", max_target=self.max_target)

  def target_limit(self, source_length: int) -> int:
    """Maximum length of the translation of a source of this length."""
    return self.max_target or 2 * source_length + 32


USUAL_LENGTHS = Lengths()

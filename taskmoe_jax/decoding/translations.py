"""What decoding gives back: texts, token ids and scores."""

import dataclasses

import numpy as np

from taskmoe_jax.decoding.hypotheses import Hypotheses
from taskmoe_jax.vocabulary import EOS_ID, Vocabulary


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

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
    score: What the search has compared; see the kinds of `Search`.
    finished: False where it was cut off at the longest length.
  """

  text: str
  token_ids: list[int]
  score: float
  finished: bool


@dataclasses.dataclass(frozen=True)
class Translations:
  """Translations of some lines, in their order.

  Attributes:
    n_best: Of each line up to `Search.n_best` hypotheses, best first. An empty
      line has one, which is empty.
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
    token_ids: Of the translation, end of sentence included.
    log_probabilities: Of each token, given the source and those before it.
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
    found: Of all rows of a batch.
    row: Which one.
    limit: The row's longest length.
    vocabulary: What the token ids mean.
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
  # Of a small vocabulary there may be fewer than were asked for.
  return [Hypothesis(*of_one) for of_one in fields if of_one[2] != -np.inf]

"""Evaluation during training: loss on the validation parts, BLEU of samples.

Both use the parameters as they are sharded, by the same programs on all hosts:
none is copied, and each program is compiled once.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxtyping import PyTree

from taskmoe_jax.data.corpus import Corpus, examples
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError, check_at_least
from taskmoe_jax.runs.directory import Run
from taskmoe_jax.train.hooks.hook import Hook, Moment, Place, TimeUse
from taskmoe_jax.train.hooks.validation_loss import ValidationLoss
from taskmoe_jax.train.program import Program

Examples = dict[str, list[tuple[str, str]]]
Scorer = Callable[
  [Mapping[str, tuple[Sequence[str], Sequence[str]]]], dict[str, float]
]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationPolicy:
  """How often a run is evaluated, and on how much.

  Attributes:
    every_steps: Number of steps between evaluations; there is also one after
      the last step; None for never.
    loss_examples: Number of validation examples of each pair, from the first,
      that the loss is computed on.
    bleu_examples: Number of them that are also translated, greedily; 0 for
      none.
    batch_size: Rows of a batch, rounded up to fill the devices.
    score: Scores translations, such as `evaluate.groups.sample_scores`.
  """

  every_steps: int | None
  loss_examples: int
  bleu_examples: int
  batch_size: int
  score: Scorer

  def __post_init__(self):
    check_at_least(
      1,
      "EvaluationPolicy",
      loss_examples=self.loss_examples,
      batch_size=self.batch_size,
    )
    check_at_least(0, "EvaluationPolicy", bleu_examples=self.bleu_examples)
    if self.every_steps is not None and self.every_steps < 1:
      raise TaskMoeError(
        f"every_steps={self.every_steps} is not at least 1. Set EVALUATE_EVERY,"
        " or leave it None for no evaluation."
      )


class Evaluation(Hook):
  """Reports `eval/...` every `every_steps` steps.

  `eval/loss` (nats a target token, without label smoothing) and
  `eval/accuracy`, as `ValidationLoss` names them, and `eval/bleu` and the
  others of the policy's `score`. The best checkpoints can be chosen by
  `eval/loss` or `eval/bleu`.
  """

  place = Place.EVALUATE
  time_use = TimeUse.EVALUATION

  def __init__(
    self,
    policy: EvaluationPolicy,
    *,
    run: Run,
    program: Program,
    corpus: Corpus,
    source_length: int,
    target_length: int,
  ):
    """Reads the examples.

    Args:
      policy: How often and how much; `every_steps` is not None.
      run: Has the vocabulary and the tasks.
      program: Has the model and the shardings of its parameters.
      corpus: Its validation parts are read.
      source_length: Length S of a source row; examples that do not fit are left
        out of the loss.
      target_length: Length T of a target row.

    Raises:
      TaskMoeError: No pair has a validation part.
    """
    assert policy.every_steps is not None, "no evaluation was asked for"
    self._every_steps = policy.every_steps
    self._policy, self._run, self._program = policy, run, program
    self._examples = validation_examples(
      corpus, max(policy.loss_examples, policy.bleu_examples)
    )
    self._loss = ValidationLoss(
      {
        pair: rows[: policy.loss_examples]
        for pair, rows in self._examples.items()
      },
      run=run,
      program=program,
      batch_size=policy.batch_size,
      source_length=source_length,
      target_length=target_length,
    )

  def after_step(self, moment: Moment) -> None:
    at_last = moment.done == moment.last_step
    if at_last or moment.done % self._every_steps == 0:
      found = self._loss(moment.state.params)
      if self._policy.bleu_examples:
        found |= self._policy.score(self._translations(moment.state.params))
      moment.report |= {f"eval/{name}": x for name, x in found.items()}

  def _translations(self, params: PyTree) -> dict[str, Any]:
    translator = Translator(
      self._run.model,
      params,
      self._run.task_space,
      self._run.vocabulary,
      partitioning=self._program.partitioning,
    )
    found = {}
    for pair, rows in self._examples.items():
      sources, references = zip(
        *rows[: self._policy.bleu_examples], strict=True
      )
      hypotheses = translator.translate(
        sources, pair, batch_size=self._policy.batch_size
      )
      found[pair] = (hypotheses, references)
    return found


def validation_examples(corpus: Corpus, limit: int) -> Examples:
  """The first validation examples of every pair that has any.

  Raises:
    TaskMoeError: No pair has.
  """
  pairs = [
    pair
    for pair in corpus.pairs
    if "validation" in corpus.parts(pair)
    and corpus.size(pair, "validation") != 0
  ]
  if not pairs:
    raise TaskMoeError(
      f"no pair of mixture {corpus.name!r} has a validation part to evaluate"
      " on. Add one, or set EVALUATE_EVERY to None."
    )
  return {
    pair: examples(corpus, part="validation", pair=pair, limit=limit)
    for pair in pairs
  }

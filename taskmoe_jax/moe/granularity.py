"""What one routing decision is made for (section 3.1 of the paper).

A granularity is an object. The router asks it for features or experts; engines,
FLOPs, export and report ask it what a task decides. The six of ours have names,
`GRANULARITIES`. To add one from outside the package, derive a frozen dataclass
from `Granularity` (a learned gate), `FixedTable` or `TaskTable` (no gate), and
bind it in a recipe:

  import my_routers
  encoder/moe.MoeConfig.granularity = @my_routers.ByParity()

A run saves the path of its class and its parameters, so later commands import
it again: its module must be on PYTHONPATH.
"""

import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from taskmoe_jax.errors import TaskMoeError, as_member
from taskmoe_jax.moe.gates import among_candidates
from taskmoe_jax.moe.router_inputs import RouterInputs, sentence_mean
from taskmoe_jax.moe.tables import WordTable, static_experts, word_experts


@runtime_checkable
class Settings(Protocol):
  """What a granularity reads of the config of its layer, `MoeConfig`."""

  @property
  def num_experts(self) -> int: ...
  @property
  def num_selected(self) -> int: ...
  @property
  def word_table(self) -> WordTable | None: ...
  @property
  def num_candidates(self) -> int | None: ...


@dataclasses.dataclass(frozen=True)
class Granularity:
  """A router whose gate is learned: softmax(features · table).

  Fields of a subclass are its parameters: gin binds them, a run saves them.

  Attributes:
    unit: What has a decision, in messages ("token").
    by_token: Whether every token has one.
    by_task: Whether the task alone decides, so that a sub-network is dense.
    has_gate: Whether gates are learned, rather than equal and of a fixed table.
    has_task_vectors: Whether a stack has a table with a learned vector of each
      task.
    reads_token_ids: Whether decisions depend on `RouterInputs.token_ids`, so
      that the vocabulary cannot be renumbered.
    task_gate: The router's parameter whose product with a task's vector scores
      the task's experts, if that alone decides which of them its sub-network
      has; see `export.extract`.
  """

  unit: ClassVar[str]
  by_token: ClassVar[bool] = False
  by_task: ClassVar[bool] = False
  has_gate: ClassVar[bool] = True
  has_task_vectors: ClassVar[bool] = False
  reads_token_ids: ClassVar[bool] = False
  task_gate: ClassVar[str | None] = None

  @property
  def name(self) -> str:
    """What messages call it."""
    return type(self).__name__

  def __str__(self) -> str:
    return self.name

  @classmethod
  def by_name(cls) -> Mapping[str, "Granularity"]:
    """Those that recipes can name, see `errors.members_of`."""
    return GRANULARITIES

  @property
  def has_sub_network(self) -> bool:
    """Whether a task needs only a few experts, whatever its text is."""
    return self.by_task or self.task_gate is not None

  @property
  def balances_tokens(self) -> bool:
    """Whether any token may get any expert, so that a bias can balance them."""
    return self.by_token and self.has_gate and not self.has_sub_network

  @property
  def decision(self) -> str:
    """A clause for reports: who chooses among which experts."""
    return f"Each {self.unit} chooses among all experts"

  def check(self, settings: Settings) -> None:
    """Refuses settings that it cannot work with.

    Raises:
      TaskMoeError: One is missing or out of range.
    """

  def features(
    self, x: Float[Array, "B L D"], inputs: RouterInputs
  ) -> Float[Array, "B *L D"]:
    """What the gate reads of each decision; without a gate it is not called.

    Args:
      x: The tokens.
      inputs: What else is known about the rows. Decoding has the same, one
        token at a time: a decision must not depend on a token's position.
    """
    raise NotImplementedError

  def scores(
    self,
    scores: Float[Array, "B *L E"],
    inputs: RouterInputs,
    settings: Settings,
    parameter: Callable[[str], Float[Array, "D E"]],
  ) -> Float[Array, "B *L E"]:
    """The scores of experts, given features · table; these unless overridden.

    Args:
      scores: What the shared gate gives.
      inputs: What else is known about the rows.
      settings: The layer's config.
      parameter: Makes another table of the router, by its name.
    """
    return scores

  def experts(
    self, inputs: RouterInputs, num_tasks: int, settings: Settings
  ) -> Int[Array, "B *L K"]:
    """The experts of a fixed table; with a gate it is not called."""
    raise NotImplementedError

  def to_json(self) -> str | dict[str, Any]:
    """Its name if it is one of ours, or its class and parameters."""
    if GRANULARITIES.get(self.name) == self:
      return self.name
    kind = type(self)
    return {
      "class": f"{kind.__module__}:{kind.__qualname__}",
      "parameters": {
        field.name: getattr(self, field.name)
        for field in dataclasses.fields(self)
      },
    }


class Token(Granularity):
  """Every token chooses by its own vector."""

  name = "token"
  unit = "token"
  by_token = True

  def features(
    self, x: Float[Array, "B L D"], inputs: RouterInputs
  ) -> Float[Array, "B *L D"]:
    return x


class Sentence(Granularity):
  """Every sentence chooses by the mean of its tokens.

  In a decoder, by the mean of the *encoder's* output for that sentence, in
  training and in decoding alike. The authors' code averages over the decoder's
  own tokens: it sees the future in training and cannot be reproduced step by
  step (docs/design/paper.md).
  """

  name = "sentence"
  unit = "sentence"

  def features(
    self, x: Float[Array, "B L D"], inputs: RouterInputs
  ) -> Float[Array, "B *L D"]:
    if inputs.sentence is not None:
      return inputs.sentence
    segments = inputs.segment_ids
    return sentence_mean(x, segments, segments, packed=inputs.packed)


class Task(Granularity):
  """Every task chooses by a learned vector."""

  name = "task"
  unit = "task"
  by_task = True
  has_task_vectors = True
  task_gate = "table"

  def features(
    self, x: Float[Array, "B L D"], inputs: RouterInputs
  ) -> Float[Array, "B *L D"]:
    assert inputs.task_vectors is not None, "the stack has a table of tasks"
    return inputs.task_vectors


class TaskThenToken(Token):
  """A task has a few candidates, and its tokens choose among these.

  So a sub-network is a small mixture. It is not of the paper.
  """

  name = "task_then_token"
  has_task_vectors = True
  task_gate = "task_gate"

  @property
  def decision(self) -> str:
    return (
      "A task has a few candidates, and each of its tokens chooses among them"
    )

  def check(self, settings: Settings) -> None:
    candidates = settings.num_candidates
    if candidates is None or not (
      settings.num_selected <= candidates <= settings.num_experts
    ):
      raise TaskMoeError(
        f"num_candidates={candidates} is outside {settings.num_selected}.."
        f"{settings.num_experts}, the numbers of experts selected and of all."
        " Set MoeConfig.num_candidates."
      )

  def scores(
    self,
    scores: Float[Array, "B *L E"],
    inputs: RouterInputs,
    settings: Settings,
    parameter: Callable[[str], Float[Array, "D E"]],
  ) -> Float[Array, "B *L E"]:
    task_gate = parameter("task_gate")
    of_task = jnp.einsum("bd,de->be", inputs.task_vectors, task_gate)
    assert settings.num_candidates is not None, "check() refuses it"
    return among_candidates(scores, of_task, settings.num_candidates)


class FixedTable(Granularity):
  """A router without a gate: experts are given, and each has weight 1/K."""

  has_gate = False

  @property
  def decision(self) -> str:
    return f"Each {self.unit} has its experts"


class Word(FixedTable):
  """Every token id has its experts.

  As in Hash Layers (arXiv 2106.04426) and Mixture of Word Experts (2311.10768);
  it is not of the paper.
  """

  name = "word"
  unit = "word of the vocabulary"
  by_token = True
  reads_token_ids = True

  def check(self, settings: Settings) -> None:
    if settings.word_table is None:
      raise TaskMoeError(
        "granularity 'word' needs a word_table: accepted are"
        f" {', '.join(WordTable)}. Set MoeConfig.word_table."
      )

  def experts(
    self, inputs: RouterInputs, num_tasks: int, settings: Settings
  ) -> Int[Array, "B *L K"]:
    assert inputs.token_ids is not None, "stacks give what they read"
    assert settings.word_table is not None, "check() refuses it"
    return word_experts(
      inputs.token_ids,
      settings.word_table,
      settings.num_experts,
      settings.num_selected,
    )


class TaskTable(FixedTable):
  """Every task has its experts, so a sub-network is dense and exact."""

  unit = "task"
  by_task = True

  def task_experts(
    self, num_tasks: int, settings: Settings
  ) -> Int[np.ndarray, "R K"]:
    """The experts of each task, all different."""
    raise NotImplementedError

  def experts(
    self, inputs: RouterInputs, num_tasks: int, settings: Settings
  ) -> Int[Array, "B *L K"]:
    table = self.task_experts(num_tasks, settings)
    return jnp.take(table, inputs.task_ids, axis=0)


class Static(TaskTable):
  """Experts are dealt out to tasks in turn."""

  name = "static"

  def task_experts(
    self, num_tasks: int, settings: Settings
  ) -> Int[np.ndarray, "R K"]:
    return static_experts(
      num_tasks, settings.num_experts, settings.num_selected
    )


TOKEN = Token()
SENTENCE = Sentence()
TASK = Task()
STATIC = Static()
WORD = Word()
TASK_THEN_TOKEN = TaskThenToken()

# By the names that recipes, run.json and manifests have for them.
GRANULARITIES: dict[str, Granularity] = {
  granularity.name: granularity
  for granularity in (TOKEN, SENTENCE, TASK, STATIC, WORD, TASK_THEN_TOKEN)
}


def granularity_from_json(value: str | Mapping[str, Any]) -> Granularity:
  """The granularity that `to_json` describes.

  Raises:
    TaskMoeError: It is none of ours, or its class cannot be imported.
  """
  if isinstance(value, str):
    return as_member(Granularity, "granularity", value, "MoeConfig.granularity")
  path = value["class"]
  module, _, name = path.partition(":")
  try:
    kind = importlib.import_module(module)
    for part in name.split("."):
      kind = getattr(kind, part)
  except (ImportError, AttributeError) as error:
    raise TaskMoeError(
      f"the granularity {path!r} cannot be imported: {error}. Add the folder of"
      f" the module {module!r} to PYTHONPATH."
    ) from None
  if not (isinstance(kind, type) and issubclass(kind, Granularity)):
    raise TaskMoeError(
      f"{path!r} is not a subclass of taskmoe_jax.moe.granularity.Granularity,"
      f" which a granularity must be. Correct the module {module!r}."
    )
  try:
    return kind(**value["parameters"])
  except TypeError as error:
    raise TaskMoeError(
      f"the granularity {path!r} does not accept its saved parameters"
      f" {value['parameters']}: {error}. Restore the module {module!r} as it"
      " was when the run was trained."
    ) from None

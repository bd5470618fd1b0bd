"""What a bundle says about itself: the manifest, `manifest.json`.

Its entries have the names of the fields of `Manifest`. Optional ones are left
out of the file when they do not apply.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from taskmoe_jax.task_space import TaskSpace

# Version of the file's form; a bundle of another one is refused.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Origin:
  """Which checkpoint a bundle is made of.

  Attributes:
    run: The run directory.
    step: The step of its checkpoint.
  """

  run: str = ""
  step: int = 0


@dataclasses.dataclass(frozen=True)
class ParameterCounts:
  """Numbers of parameters.

  Attributes:
    mixture: In the run's model.
    bundle: In the bundle.
  """

  mixture: int = 0
  bundle: int = 0


@dataclasses.dataclass(frozen=True)
class About:
  """What a format's writer may tell the readers of its folder.

  Attributes:
    task: What the bundle translates.
    run: The run directory that it comes from.
    step: The checkpoint.
    parameters: Numbers of the mixture and of the bundle.
    scores: BLEU by pair, on the test part; empty if it was never evaluated.
  """

  task: str
  run: str
  step: int
  parameters: tuple[int, int]
  scores: Mapping[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
  """The manifest of a bundle.

  Attributes:
    task: Name of the bundle: its task, tasks joined by `+`, or `whole`.
    tasks: Its tasks, in the order of their ids; pruned bundles have none.
    pairs: Language pairs it translates.
    task_by: What a pair's task is named after.
    source: The checkpoint it comes from.
    parameters: How many the mixture has, and the bundle.
    stacks: For the encoder and the decoder, which experts were kept, or why
      none were dropped.
    pruning: The settings of pruning, of a pruned bundle.
    check: How the bundle compares with its mixture.
    trimming: What trimming the vocabulary did.
    quantization: What rounding the weights did.
    cost: Size and BLEU before and after trimming and rounding.
    scores: BLEU by pair on the test part, if the run was evaluated.
    bleu: BLEU by pair of the mixture and of the bundle, if asked for.
    formats: Checks and sizes of the formats for other engines, by name.
    sha256: Checksums of all other files; added when it is written.
    unknown: Entries that this version does not know, kept as they are.
    order: Names of entries in the order they have in the file; others follow
      in the order of the fields.
  """

  task: str = ""
  tasks: tuple[str, ...] | None = None
  pairs: tuple[str, ...] = ()
  task_by: str = ""
  source: Origin = Origin()
  parameters: ParameterCounts = ParameterCounts()
  stacks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  pruning: Mapping[str, Any] | None = None
  check: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  trimming: Mapping[str, Any] | None = None
  quantization: Mapping[str, Any] | None = None
  cost: Mapping[str, Any] | None = None
  scores: Mapping[str, float] = dataclasses.field(default_factory=dict)
  bleu: Mapping[str, Mapping[str, float]] | None = None
  formats: Mapping[str, Mapping[str, Any]] | None = None
  sha256: Mapping[str, str] = dataclasses.field(default_factory=dict)
  unknown: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  order: tuple[str, ...] = ()

  @classmethod
  def of(
    cls, about: About, served: TaskSpace, **entries: Mapping[str, Any] | None
  ) -> "Manifest":
    """A manifest with these entries of a bundle that serves these tasks."""
    mixture, kept = about.parameters
    fields: dict[str, Any] = {
      "task": about.task,
      "tasks": served.tasks,
      "pairs": served.pairs,
      "task_by": str(served.task_by),
      "source": Origin(about.run, about.step),
      "parameters": ParameterCounts(mixture, kept),
      "scores": about.scores,
    }
    return cls(**(fields | entries))

  @classmethod
  def from_dict(cls, entries: Mapping[str, Any]) -> "Manifest":
    """Of the entries of `manifest.json`; those that are missing are empty."""
    fields = {name: entries[name] for name in _ENTRIES if name in entries}
    for name in ("tasks", "pairs"):
      if name in fields:
        fields[name] = tuple(fields[name])
    for name, kind in (("source", Origin), ("parameters", ParameterCounts)):
      if name in fields:
        known = [field.name for field in dataclasses.fields(kind)]
        found = fields[name]
        fields[name] = kind(
          **{key: found[key] for key in known if key in found}
        )
    unknown = {
      name: value
      for name, value in entries.items()
      if name not in (*_ENTRIES, "format")
    }
    order = tuple(name for name in entries if name not in ("format", "sha256"))
    return cls(**fields, unknown=unknown, order=order)

  def to_dict(self) -> dict[str, Any]:
    """The entries of `manifest.json`, in their order."""
    entries: dict[str, Any] = {"format": FORMAT}
    for name in self._names():
      value = self.unknown.get(name, getattr(self, name, None))
      if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
      entries[name] = list(value) if isinstance(value, tuple) else value
    return {**entries, "sha256": self.sha256}

  def with_entries(self, **entries: Any) -> "Manifest":
    """A copy with these entries, of which new ones come last.

    None takes an entry away.
    """
    order = tuple(
      name for name in self._names() if entries.get(name, "") is not None
    )
    return dataclasses.replace(self, **entries, order=order)

  @property
  def about(self) -> About:
    counts = self.parameters
    return About(
      self.task,
      self.source.run,
      self.source.step,
      (counts.mixture, counts.bundle),
      self.scores,
    )

  def _names(self) -> list[str]:
    """Names of the entries that it has, without format and checksums."""
    names = dict.fromkeys((*self.order, *_ENTRIES, *self.unknown))
    return [
      name
      for name in names
      if name != "sha256"
      and self.unknown.get(name, getattr(self, name, None)) is not None
    ]


_ENTRIES = tuple(
  field.name
  for field in dataclasses.fields(Manifest)
  if field.name not in ("unknown", "order")
)

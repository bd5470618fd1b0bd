"""What a run directory says about its run, besides checkpoints and metrics.

RUN_DIR/
  config.gin          the recipe as it was run
  run.json            model, task space, checksum of the vocabulary, seed
  vocabulary.model    a copy, so that the directory is complete in itself
  checkpoints/<step>/ parameters, optimizer, position of the data
  metrics.jsonl       what was logged; tensorboard/ the same, to look at
"""

import contextlib
import dataclasses
import errno
import json
from collections.abc import Iterator
from typing import Any

from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.files import write_whole
from taskmoe_jax.models.config import ModelConfig
from taskmoe_jax.runs.checkpoint_folders import (
  checkpoints_folder,
  complete_steps,
)
from taskmoe_jax.runs.checkpoint_items import check_goes_on
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.vocabulary import Vocabulary

Samples = dict[str, list[tuple[str, str]]]

# May differ between the parts of one run: they shape no parameter, and change
# nothing once training is over.
_MAY_CHANGE = (
  "dropout_rate",
  "dtype",
  "rematerialize",
  "dispatch",
  "capacity_factor",
  "group_size",
  "pool_factor",
  "refetch",
  "balance_loss_weight",
  "z_loss_weight",
  "second_expert_policy",
  "second_expert_threshold",
  "renormalize",
  "jitter",
  "priority",
  "expert_mask_rate",
  "gating_dropout_rate",
)


@dataclasses.dataclass(frozen=True)
class Run:
  """What stays the same however often a run is interrupted.

  Attributes:
    model: What is trained.
    task_space: The tasks it is trained on.
    vocabulary: How their text becomes tokens.
    seed: Of parameters, dropout and the order of the data. Keys and order are
      made from it and the step alone, so it is the only random state.
  """

  model: ModelConfig
  task_space: TaskSpace
  vocabulary: Vocabulary
  seed: int

  def description(self) -> dict[str, Any]:
    """JSON-able values; also part of every checkpoint."""
    return {
      "model": self.model.to_dict(),
      "task_space": self.task_space.to_dict(),
      "vocabulary": self.vocabulary.checksum,
      "seed": self.seed,
    }

  def __post_init__(self):
    if len(self.vocabulary) > self.model.vocab_size:
      raise TaskMoeError(
        f"the vocabulary {self.vocabulary.origin!r} has {len(self.vocabulary)}"
        f" pieces, more than the model's vocab_size={self.model.vocab_size}."
        " Set VOCAB_SIZE."
      )


def vocabulary_path(run_dir: epath.PathLike) -> epath.Path:
  return epath.Path(run_dir) / "vocabulary.model"


def is_run_directory(path: epath.PathLike) -> bool:
  return (epath.Path(path) / "run.json").exists()


def make_folder(run_dir: epath.PathLike) -> None:
  """Makes sure that there is a folder to write into.

  Before the vocabulary is trained, which takes minutes.
  """
  probe = epath.Path(run_dir) / "writable.tmp"
  try:
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_bytes(b"")
    probe.unlink()
  except OSError as error:
    raise TaskMoeError(
      f"cannot write into the run directory {str(run_dir)!r}"
      f" ({error.strerror}). Set RUN_DIR to another folder."
    ) from None


# A disk that is full, a quota, the largest file; a disk that became read-only.
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What TensorStore, with which Orbax writes, makes of them.
_NO_ROOM_WORDS = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "RESOURCE_EXHAUSTED")


@contextlib.contextmanager
def explained_write_errors(run_dir: epath.PathLike) -> Iterator[None]:
  """Says in our words that there is no room, whoever has noticed."""
  try:
    yield
  except (OSError, ValueError, RuntimeError) as error:
    number = getattr(error, "errno", None)
    full = any(word in str(error) for word in _NO_ROOM_WORDS)
    if isinstance(error, TaskMoeError) or not (full or number in _NO_ROOM):
      raise
    raise TaskMoeError(
      f"cannot write into the run directory {str(run_dir)!r} any more"
      f" ({str(error).splitlines()[0]}). Make room, or fewer checkpoints"
      " (CheckpointPolicy.keep), and start again: the run resumes from its last"
      " complete checkpoint."
    ) from error


def check_run_directory(run_dir: epath.PathLike, run: Run) -> None:
  """Refuses a directory that this run cannot resume in; writes nothing.

  Raises:
    TaskMoeError: It holds another model, other tasks or another vocabulary, or
      averaged parameters.
  """
  folder = epath.Path(run_dir)
  path = folder / "run.json"
  if path.exists():
    difference = _difference(_read_json(path), run.description())
    if difference:
      name, old_value, new_value = difference
      raise TaskMoeError(
        f"{str(folder)!r} holds another run: its {name} is {old_value!r}, and"
        f" not {new_value!r} as asked for now. Set RUN_DIR to another folder,"
        " or the recipe as it was (see config.gin there)."
      )
    steps = complete_steps(checkpoints_folder(folder))
    if steps:
      check_goes_on(checkpoints_folder(folder) / str(steps[-1]))
  elif (folder / "checkpoints").exists():
    raise TaskMoeError(
      f"{str(folder)!r} has checkpoints but no run.json, so whose they are"
      " cannot be told. Set RUN_DIR to another folder."
    )


def open_run_directory(
  run_dir: epath.PathLike, run: Run, config_text: str, samples: Samples
) -> None:
  """Makes a run directory, or checks that an existing one holds this run.

  Args:
    run_dir: Any path that `epath` understands.
    run: What is about to be trained.
    config_text: The recipe, as gin text.
    samples: Sources and references of every pair, not seen in training.

  Raises:
    TaskMoeError: See `check_run_directory`. Nothing has been written then.
  """
  check_run_directory(run_dir, run)
  folder = epath.Path(run_dir)
  folder.mkdir(parents=True, exist_ok=True)
  write_whole(folder / "config.gin", config_text.encode())
  write_whole(vocabulary_path(run_dir), run.vocabulary.model)
  write_whole(
    folder / "samples.json",
    json.dumps(samples, ensure_ascii=False, indent=2).encode(),
  )
  description = json.dumps(run.description(), indent=2)
  write_whole(folder / "run.json", description.encode())


def load_samples(run_dir: epath.PathLike) -> Samples:
  """Reads the sentences that a run keeps of every pair."""
  samples = _read_json(epath.Path(run_dir) / "samples.json")
  return {
    pair: [(source, target) for source, target in rows]
    for pair, rows in samples.items()
  }


def load_run(run_dir: epath.PathLike) -> Run:
  """Reads what a run directory holds; an error if it is none."""
  folder = epath.Path(run_dir)
  if not is_run_directory(run_dir):
    raise TaskMoeError(
      f"{str(folder)!r} is not a run directory: it has no run.json. Name the"
      " RUN_DIR of a run that `taskmoe train` has begun."
    )
  description = _read_json(folder / "run.json")
  vocabulary = Vocabulary.load(vocabulary_path(run_dir))
  if vocabulary.checksum != description["vocabulary"]:
    raise TaskMoeError(
      f"{vocabulary.origin!r} is not the vocabulary of the run: its SHA-256 is"
      f" {vocabulary.checksum[:12]}..., and run.json says"
      f" {description['vocabulary'][:12]}...."
    )
  return Run(
    ModelConfig.from_dict(description["model"]),
    TaskSpace.from_dict(description["task_space"]),
    vocabulary,
    description["seed"],
  )


def _read_json(path: epath.Path) -> dict[str, Any]:
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise TaskMoeError(f"{str(path)!r} is not JSON: {error}.") from None


def _difference(old: Any, new: Any, name: str = "") -> tuple | None:
  """The first entry in which two descriptions differ, if it matters."""
  if isinstance(old, dict) and isinstance(new, dict):
    for key in dict.fromkeys([*old, *new]):
      if key in _MAY_CHANGE:
        continue
      found = _difference(old.get(key), new.get(key), f"{name}.{key}")
      if found:
        return found
    return None
  return None if old == new else (name.removeprefix("."), old, new)

"""Formats that other engines read, written beside a bundle's own files.

Each is a subfolder of the bundle with the name of the format. After writing,
it is loaded by its own engine and compared with the bundle. An engine is
imported only when its format is asked for.

A format of your own needs no change here: `--formats=my.module:MyFormat` names
an object of a module on PYTHONPATH that has the methods of `Format`, or a class
of such objects. Its folder is called like the object, `MyFormat`.
"""

import dataclasses
import importlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from etils import epath
from jaxtyping import PyTree

from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.search import Beam, Greedy, Lengths
from taskmoe_jax.decoding.translations import Hypothesis
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.export.verify import Samples, in_float32
from taskmoe_jax.models.config import ModelConfig, StackConfig


def refuse_routing(model: ModelConfig, engine: str, formats: str) -> None:
  """Refuses a model with a stack that has no dense sub-network.

  A stack that is routed by task is no reason: its sub-network is dense.

  Args:
    model: The mixture's config.
    engine: What cannot run it.
    formats: What to leave out of --formats.

  Raises:
    TaskMoeError: Which setting would make it possible.
  """
  for name in ("encoder", "decoder"):
    moe = getattr(model, name).moe
    if moe is not None and not moe.granularity.by_task:
      raise TaskMoeError(
        f"the {name} is routed by {moe.granularity}, so that it stays a mixture"
        f" of experts, which {engine} does not support. Train with"
        f" {name.upper()} set to 'task' or 'static', or leave {formats} out of"
        " --formats."
      )


def refuse_mixtures(model: ModelConfig, engine: str, formats: str) -> None:
  """Refuses what is a mixture still, as a sub-network of several tasks may be.

  Raises:
    TaskMoeError: It is one.
  """
  if model.encoder.moe is not None or model.decoder.moe is not None:
    raise TaskMoeError(
      "the sub-network of several tasks is a mixture of experts still, which"
      f" {engine} does not support. Export its tasks one by one with"
      f" --tasks, or leave {formats} out of --formats."
    )


def layers_in_order(
  blocks: Mapping[str, PyTree], stack: StackConfig
) -> Iterator[Mapping[str, Any]]:
  """Layers in the order in which a text passes them, as NumPy's arrays.

  Args:
    blocks: Parameters of a scanned model, with a leading axis of blocks.
    stack: Their config.
  """
  for block in range(stack.num_blocks):
    for place in range(stack.block_size):
      yield _of_block(blocks[f"layer_{place}"], block)


def _of_block(tree: Any, block: int) -> Any:
  if isinstance(tree, Mapping):
    return {name: _of_block(value, block) for name, value in tree.items()}
  return np.asarray(tree[block])


# Longer translations are cut, in both alike. One length for all sentences and
# tasks, so that one program searches for all of them.
LONGEST = 64


class Expected:
  """A bundle and sentences for it; what it finds is found once for all engines.

  Attributes:
    bundle: As it serves.
    samples: Sentences with references.
  """

  def __init__(self, bundle: Translator, samples: Samples):
    self.bundle = bundle
    self._exact = in_float32(bundle)
    self.samples = samples
    self._scores: dict[str, list[float]] = {}
    self._translations: dict[tuple[str, Beam | Greedy], list[Hypothesis]] = {}

  def sides(self, pair: str) -> tuple[list[str], list[str]]:
    """Sources and references."""
    rows = self.samples[pair]
    return [source for source, _ in rows], [target for _, target in rows]

  @property
  def num_tokens(self) -> int:
    """Of all references, their ends included."""
    vocabulary = self.bundle.vocabulary
    return sum(
      len(ids) + 1
      for pair in self.samples
      for ids in vocabulary.encode(self.sides(pair)[1])
    )

  def scores(self, pair: str) -> list[float]:
    """Log-probability of each reference, end of sentence included."""
    if pair not in self._scores:
      with jax.default_matmul_precision("highest"):
        found = self._exact.score(*self.sides(pair), pair)
      self._scores[pair] = [score.total for score in found]
    return self._scores[pair]

  def translations(self, pair: str, search: Beam | Greedy) -> list[Hypothesis]:
    """The best hypothesis of each source."""
    key = (pair, search)
    if key not in self._translations:
      with jax.default_matmul_precision("highest"):
        found = self._exact.decode(
          self.sides(pair)[0],
          pair,
          batch_size=32,
          search=search,
          lengths=Lengths(max_target=LONGEST),
        )
      self._translations[key] = [best for best, *_ in found.n_best]
    return self._translations[key]


# Where the writer of each format is: module:object.
_WRITERS: dict[str, str] = {
  "ctranslate2": f"{__package__}.ctranslate2.writer:FLOAT32",
  "ctranslate2_float16": f"{__package__}.ctranslate2.writer:FLOAT16",
  "ctranslate2_int8": f"{__package__}.ctranslate2.writer:INT8",
  "huggingface": f"{__package__}.huggingface.writer:HUGGING_FACE",
  "stablehlo": f"{__package__}.stablehlo.writer:STABLEHLO",
}


@dataclasses.dataclass(frozen=True)
class FormatCheck:
  """How an engine compared to the bundle, on sentences with references.

  Attributes:
    engine: With its version: `ctranslate2 4.8.5`.
    sentences: How many were compared.
    max_score_difference: Of the log-probabilities of the references, each the
      sum over its tokens, the end of the sentence included.
    identical_translations: How many translations were the same, with a beam
      of four; greedily, of an engine that has no beams.
    exact: Whether the format keeps float32, so that they must be the same.
  """

  engine: str
  sentences: int
  max_score_difference: float
  identical_translations: int
  exact: bool


@runtime_checkable
class Format(Protocol):
  """Writes one format, and checks what it wrote."""

  def refuse(self, model: ModelConfig) -> None:
    """Refuses what the engine cannot represent, before anything is extracted.

    Raises:
      TaskMoeError: Which setting would make it possible; or how to install the
        engine.
    """

  def write(
    self, translator: Translator, folder: epath.Path, about: About
  ) -> None:
    """Writes a bundle's model into an empty folder."""

  def check(self, expected: Expected, folder: epath.Path) -> FormatCheck:
    """Loads a folder in its own engine and compares it with the bundle.

    Raises:
      TaskMoeError: They differ by more than rounding can explain.
    """


def formats_named(names: str) -> dict[str, Format]:
  """Writers by the name of their folder, for a comma-separated list.

  Args:
    names: Of formats, or `MODULE:OBJECT` for those of other packages; none if
      it is empty.

  Raises:
    TaskMoeError: A name is unknown, or an object is not a `Format`.
  """
  formats: dict[str, Format] = {}
  for name in filter(None, names.split(",")):
    path = name if ":" in name else _WRITERS.get(name)
    if path is None:
      raise TaskMoeError(
        one_of("format", name, _WRITERS)
        + ". Set --formats, or name your own as MODULE:OBJECT."
      )
    folder = name.rpartition(":")[2]
    if folder in formats or (path is name and folder in _WRITERS):
      raise TaskMoeError(
        f"{name!r} would be written to the folder {folder!r}, which is that of"
        " another format. Set --formats to objects with names of their own."
      )
    formats[folder] = _format_at(path)
  return formats


def _format_at(path: str) -> Format:
  """Imports the format at `MODULE:OBJECT`."""
  module, _, attribute = path.partition(":")
  try:
    found = getattr(importlib.import_module(module), attribute)
  except (ModuleNotFoundError, AttributeError, ValueError) as error:
    missing = getattr(error, "name", None) or module
    if isinstance(error, ModuleNotFoundError) and not (
      f"{module}.".startswith(f"{missing}.")
    ):
      raise  # Found, but it needs a package that is not installed.
    raise TaskMoeError(
      f"there is no format {path!r} ({error}). Set --formats to MODULE:OBJECT,"
      " of a module on PYTHONPATH."
    ) from None
  if isinstance(found, type):
    found = found()
  if not isinstance(found, Format):
    lacking = [
      name for name in ("refuse", "write", "check") if not hasattr(found, name)
    ]
    raise TaskMoeError(
      f"{path!r} is not a format: it lacks {', '.join(lacking)}; accepted are"
      " objects with the methods of export.formats.format.Format. Set"
      " --formats."
    )
  return found

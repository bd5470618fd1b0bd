"""Bundles made smaller: fewer pieces, fewer bits; compared with what they were.

A bundle is written in float32 first and proved to be its mixture. What is done
here comes after that. Trimming is exact for text that needs no dropped piece,
and checked to be. Rounding is not: by how much translations differ is measured,
and what that costs in BLEU.
"""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from etils import epath
from flax import traverse_util
from safetensors import numpy as safetensors

from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.quantization import Quantization, quantize
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.texts import PairText
from taskmoe_jax.export.run_texts import bleu_by_pair
from taskmoe_jax.export.shrinking.trimming import (
  check_tokens,
  check_trimmed,
  count_pieces,
  kept_pieces,
  lines_of,
  refuse_trimming,
  text_files,
  trim,
)
from taskmoe_jax.export.verify import Samples, in_float32, logit_difference
from taskmoe_jax.models.parameters import parameter_count
from taskmoe_jax.task_space import split_pair

# By how many nats a token of the references may become more or less likely.
# That is many times what rounding does to a trained model (docs/shrinking.md),
# and a fraction of what weights that are wrong do.
MOST_PER_TOKEN = {Quantization.INT8: 0.2, Quantization.INT8_INT4: 0.5}
_ROWS = 16
_MODEL = "model.safetensors"
_CONFIG = "config.json"


@dataclasses.dataclass(frozen=True)
class Shrinking:
  """What is done to bundles.

  Attributes:
    text: On which files, or folders of them, the pieces are counted that the
      vocabulary keeps; see `text_files`. Empty: it keeps all.
    quantization: To how many bits weights are rounded, if they are.
    score: Sentences of each pair to count BLEU on, before and after; 0: none.
  """

  text: str = ""
  quantization: Quantization | None = None
  score: int = 0


NOTHING = Shrinking()


@dataclasses.dataclass(frozen=True)
class RoundingCheck:
  """How a rounded bundle compares to what it was.

  Attributes:
    sentences: How many were compared.
    nats_per_token: By how much the log-probability of a token of the references
      differs, as an average over sentences.
    max_logit_difference: Largest difference of two logits.
    identical_translations: How many greedy translations were the same.
  """

  sentences: int
  nats_per_token: float
  max_logit_difference: float
  identical_translations: int


def shrink(
  folder: epath.Path,
  shrinking: Shrinking,
  samples: Samples,
  texts: Mapping[str, PairText],
) -> dict[str, Any]:
  """Makes the files of a bundle smaller, where they are.

  Args:
    folder: The folder of a bundle that has no manifest yet.
    shrinking: What to do.
    samples: Sentences with references of its pairs, to compare on.
    texts: More of them, to count BLEU on; see `texts_to_score`.

  Returns:
    What the manifest says of it; empty if nothing was asked for.

  Raises:
    TaskMoeError: What came of it does not translate as it did.
  """
  if shrinking == NOTHING:
    return {}
  before = bundle.read_model(folder)
  size, said, small = bundle.size_of(folder), {}, before
  if shrinking.text:
    small, said["trimming"] = _trimmed(before, shrinking.text, samples)
    bundle.write_model(folder, small)
  if shrinking.quantization is not None:
    write_rounded(folder, small, shrinking.quantization)
    after = bundle.read_model(folder)
    check = _check_rounded(small, after, samples, shrinking.quantization)
    said["quantization"] = {
      "stored_as": str(shrinking.quantization),
      **dataclasses.asdict(check),
    }
    small = after
  said["cost"] = {
    "bytes": {"before": size, "after": bundle.size_of(folder)},
    "parameters": {
      "before": parameter_count(before.params),
      "after": parameter_count(small.params),
    },
  }
  if texts:
    said["cost"]["bleu"] = {
      when: bleu_by_pair(translator, texts)
      for when, translator in (("before", before), ("after", small))
    }
  return said


def _trimmed(
  whole: Translator, text: str, samples: Samples
) -> tuple[Translator, dict[str, Any]]:
  """Counts pieces on text, and drops the others.

  Sentences to compare on are counted too.
  """
  pairs = whole.task_space.pairs
  vocabulary = whole.vocabulary
  refuse_trimming(whole.model, vocabulary)
  files = text_files(text, pairs)
  compared = [side for rows in samples.values() for row in rows for side in row]
  counts = count_pieces(vocabulary, itertools.chain(lines_of(files), compared))
  kept = kept_pieces(
    vocabulary, counts, [split_pair(pair)[1] for pair in pairs]
  )
  small = trim(whole, kept)
  lines = check_tokens(
    vocabulary,
    small.vocabulary,
    kept,
    itertools.chain(lines_of(files), compared),
  )
  check = check_trimmed(whole, small, kept, samples)
  return small, {
    "text": list(map(str, files)),
    "lines": lines,
    "pieces": {"before": len(vocabulary), "after": len(kept)},
    **dataclasses.asdict(check),
  }


def write_rounded(
  folder: epath.Path, translator: Translator, quantization: Quantization
) -> None:
  """Writes the files of a bundle, with its weights rounded."""
  flat = traverse_util.flatten_dict(translator.params, sep="/")
  arrays, notes = quantize(
    {name: np.asarray(value) for name, value in flat.items()}, quantization
  )
  del flat
  bundle.write_model(folder, translator)
  arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
  (folder / _MODEL).write_bytes(safetensors.save(arrays))
  path = folder / _CONFIG
  config = json.loads(path.read_text())
  config["quantization"] = {"stored_as": str(quantization), "arrays": notes}
  path.write_text(json.dumps(config, indent=2))


def _check_rounded(
  before: Translator,
  after: Translator,
  samples: Samples,
  quantization: Quantization,
) -> RoundingCheck:
  before, after = in_float32(before), in_float32(after)
  nats, tokens, differences, same, sentences = 0.0, 0, [], 0, 0
  with jax.default_matmul_precision("highest"):
    for pair, rows in samples.items():
      sources, targets = ([row[side] for row in rows] for side in (0, 1))
      ours, theirs = (
        model.score(sources, targets, pair, batch_size=_ROWS)
        for model in (before, after)
      )
      tokens += sum(len(score.token_ids) for score in ours)
      nats += float(
        np.sum(
          [abs(a.total - b.total) for a, b in zip(ours, theirs, strict=True)]
        )
      )
      differences.append(logit_difference(before, after, pair, rows))
      found = (
        model.translate(sources, pair, batch_size=_ROWS)
        for model in (before, after)
      )
      same += sum(a == b for a, b in zip(*found, strict=True))
      sentences += len(rows)
  check = RoundingCheck(
    sentences, nats / tokens, float(np.max(differences)), same
  )
  most = MOST_PER_TOKEN[quantization]
  if not check.nats_per_token <= most:
    raise TaskMoeError(
      f"rounded to {quantization} the bundle for {', '.join(samples)} is"
      " another model: log-probabilities of references differ by"
      f" {check.nats_per_token:.1e} a token, where at most {most} is accepted."
      " Nothing was written. Round less with --quantize, or leave it out."
    )
  return check

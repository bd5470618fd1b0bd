"""A written folder, run by Hugging Face's transformers on the CPU.

Imported only by who checks or measures: torch takes seconds to load.
"""

import os
import sys
from collections.abc import Sequence

import numpy as np
import torch
import transformers
from jaxtyping import Float, Int

from taskmoe_jax.decoding.batches import padded
from taskmoe_jax.decoding.search import Beam, Greedy, Normalization, Stopping
from taskmoe_jax.decoding.translations import Hypothesis
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.verify import Samples
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import (
  EOS_ID,
  PAD_ID,
  Vocabulary,
  right_shift,
  target_symbol,
)

_ROWS = 16
_EARLY_STOPPING = {
  Stopping.FULL: True,
  Stopping.LIKELY: False,
  Stopping.SURE: "never",
}


def spare_triton() -> None:
  """Keeps torch from importing Triton where TensorFlow is loaded already.

  Both bring an LLVM, and Triton, coming second, ends the process by a
  segmentation fault. Nothing needs it here: without it torch is as on a machine
  where it is not installed.
  """
  if "tensorflow" in sys.modules:
    # None is how an import is made to fail.
    sys.modules.setdefault("triton", None)  # type: ignore[arg-type]


class HuggingFaceEngine:
  """A model and its tokenizer, as `from_pretrained` finds them."""

  def __init__(self, folder: str | os.PathLike):
    spare_triton()
    transformers.utils.logging.disable_progress_bar()
    path = os.fspath(folder)
    self.version = f"transformers {transformers.__version__}"
    self.tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    self.model = transformers.AutoModelForSeq2SeqLM.from_pretrained(path).eval()

  def encode(self, sources: Sequence[str], pair: str) -> list[list[int]]:
    """Token ids of sources, each with its symbol before it."""
    symbol = target_symbol(split_pair(pair)[1])
    return self._ids([f"{symbol} {source}" for source in sources])

  def _ids(self, texts: Sequence[str]) -> list[list[int]]:
    return self.tokenizer(list(texts)).input_ids

  def check_tokens(self, vocabulary: Vocabulary, samples: Samples) -> None:
    """Refuses a tokenizer that does not give our ids.

    Raises:
      TaskMoeError: Which text has others.
    """
    for pair, rows in samples.items():
      sources, targets = zip(*rows, strict=True)
      symbol = vocabulary.target_id(split_pair(pair)[1])
      ours = [[symbol, *ids, EOS_ID] for ids in vocabulary.encode(sources)]
      ours += [[*ids, EOS_ID] for ids in vocabulary.encode(targets)]
      theirs = self.encode(sources, pair) + self._ids(targets)
      for text, our, their in zip(
        (*sources, *targets), ours, theirs, strict=True
      ):
        if our != their:
          raise TaskMoeError(
            f"the tokenizer of {self.version} gives {text!r} the ids {their},"
            f" and the vocabulary {vocabulary.origin!r} {our}. Nothing was"
            " written. Leave huggingface out of --formats."
          )

  def score(
    self, sources: Sequence[str], targets: Sequence[str], pair: str
  ) -> list[float]:
    """Log-probability of each target, end of sentence included."""
    return self._scores(self.encode(sources, pair), self._ids(targets))

  def translate(
    self,
    sources: Sequence[str],
    pair: str,
    search: Beam | Greedy,
    max_target: int,
  ) -> list[Hypothesis]:
    """The best hypothesis of each source, by `generate`."""
    encoded = self.encode(sources, pair)
    found = []
    for first in range(0, len(encoded), _ROWS):
      found += self.generate(
        _padded(encoded[first : first + _ROWS]), search, max_target
      )
    scores = self._scores(encoded, found)
    if isinstance(search, Beam):
      # `generate` tells scores only with all logits of all steps.
      scores = [
        score / len(ids) ** search.length_penalty
        for score, ids in zip(scores, found, strict=True)
      ]
    texts = self.tokenizer.batch_decode(found, skip_special_tokens=True)
    return [
      Hypothesis(text, ids, score, ids[-1] == EOS_ID)
      for text, ids, score in zip(texts, found, scores, strict=True)
    ]

  def generate(
    self,
    sources: Int[np.ndarray, "B S"],
    search: Beam | Greedy,
    max_target: int,
  ) -> list[list[int]]:
    """Token ids of the best hypotheses of one batch."""
    settings: dict[str, object] = {"num_beams": 1, "length_penalty": 1.0}
    if isinstance(search, Beam):
      assert search.normalization is Normalization.POWER, search
      settings = {
        "num_beams": search.size,
        "length_penalty": search.length_penalty,
        "early_stopping": _EARLY_STOPPING[search.stopping],
      }
    ids = torch.from_numpy(sources).long()
    with torch.inference_mode():
      rows = self.model.generate(
        input_ids=ids,
        attention_mask=(ids != PAD_ID).long(),
        max_new_tokens=max_target,
        do_sample=False,
        **settings,
      )
    # The first token is the decoder's start.
    return [_until_end(row) for row in rows[:, 1:].tolist()]

  def _scores(
    self, sources: Sequence[list[int]], targets: Sequence[list[int]]
  ) -> list[float]:
    scores = []
    for first in range(0, len(sources), _ROWS):
      chosen = slice(first, first + _ROWS)
      log_probs = self._log_probabilities(
        _padded(sources[chosen]), _padded(targets[chosen])
      )
      scores += [
        float(row[: len(ids)].sum(dtype=np.float64))
        for row, ids in zip(log_probs, targets[chosen], strict=True)
      ]
    return scores

  def _log_probabilities(
    self, sources: Int[np.ndarray, "B S"], targets: Int[np.ndarray, "B T"]
  ) -> Float[np.ndarray, "B T"]:
    """Of each token of the targets, given those before it."""
    ids, wanted = (torch.from_numpy(x).long() for x in (sources, targets))
    before = torch.from_numpy(right_shift(targets)).long()
    with torch.inference_mode():
      logits = self.model(
        input_ids=ids,
        attention_mask=(ids != PAD_ID).long(),
        decoder_input_ids=before,
      ).logits
      losses = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), wanted.flatten(), reduction="none"
      )
    return -losses.reshape(wanted.shape).numpy()


def _padded(rows: Sequence[list[int]]) -> Int[np.ndarray, "B L"]:
  return padded(rows, len(rows))


def _until_end(ids: list[int]) -> list[int]:
  return ids[: ids.index(EOS_ID) + 1] if EOS_ID in ids else ids

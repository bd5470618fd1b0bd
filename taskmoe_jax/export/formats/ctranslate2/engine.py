"""A written folder, run by CTranslate2 on the CPU."""

import json
from collections.abc import Sequence

import ctranslate2
from etils import epath

from taskmoe_jax.decoding.search import Beam, Greedy, Normalization, Stopping
from taskmoe_jax.decoding.translations import Hypothesis
from taskmoe_jax.task_space import split_pair
from taskmoe_jax.vocabulary import EOS_ID, Vocabulary, target_symbol

_ROWS = 16


class CTranslate2Engine:
  """A model and its vocabulary, used as the folder's README says.

  Texts become pieces by their ids: of an unknown letter SentencePiece gives the
  letter itself, which may be the name of another piece.
  """

  def __init__(self, folder: epath.PathLike):
    path = epath.Path(folder)
    self.version = f"ctranslate2 {ctranslate2.__version__}"
    # As it is stored, but for float16: no CPU computes in it, and CTranslate2
    # would warn before it takes float32.
    stored = json.loads((path / "config.json").read_text())["stored_as"]
    self.translator = ctranslate2.Translator(
      path.name,
      device="cpu",
      compute_type="float32" if stored == "float16" else "default",
      files={file.name: file.read_bytes() for file in path.iterdir()},
    )
    self._names = json.loads((path / "shared_vocabulary.json").read_text())
    self._ids = {name: number for number, name in enumerate(self._names)}
    self._vocabulary = Vocabulary((path / "spiece.model").read_bytes())

  def score(
    self, sources: Sequence[str], targets: Sequence[str], pair: str
  ) -> list[float]:
    """Log-probability of each target, end of sentence included."""
    results = self.translator.score_batch(
      self._sources(sources, pair),
      self._named(targets),
      max_batch_size=_ROWS,
      max_input_length=0,
    )
    return [float(sum(result.log_probs)) for result in results]

  def translate(
    self,
    sources: Sequence[str],
    pair: str,
    search: Beam | Greedy,
    max_target: int,
  ) -> list[Hypothesis]:
    """The best hypothesis of each source."""
    settings = {"beam_size": 1, "length_penalty": 0.0}
    if isinstance(search, Beam):
      assert search.normalization is Normalization.POWER, search
      assert search.stopping is Stopping.FULL, search
      settings = {
        "beam_size": search.size,
        "length_penalty": search.length_penalty,
      }
    results = self.translator.translate_batch(
      self._sources(sources, pair),
      max_batch_size=_ROWS,
      max_input_length=0,
      # Its 1 would make the end of sentence impossible at first, and so all
      # other first tokens likelier.
      min_decoding_length=0,
      max_decoding_length=max_target,
      return_end_token=True,
      return_scores=True,
      **settings,
    )
    found = [
      [self._ids[name] for name in result.hypotheses[0]] for result in results
    ]
    texts = self._vocabulary.decode(found)
    return [
      Hypothesis(text, ids, result.scores[0], ids[-1] == EOS_ID)
      for text, ids, result in zip(texts, found, results, strict=True)
    ]

  def _sources(self, texts: Sequence[str], pair: str) -> list[list[str]]:
    symbol = target_symbol(split_pair(pair)[1])
    return [[symbol, *names] for names in self._named(texts)]

  def _named(self, texts: Sequence[str]) -> list[list[str]]:
    encoded = self._vocabulary.encode(texts)
    return [[self._names[i] for i in ids] for ids in encoded]

"""Scores of models, as they stand beside bundles."""

import types

import pytest

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.evaluate.texts import PairText
from taskmoe_jax.export.run_texts import bleu_by_pair, score_pairs


@pytest.mark.slow
def test_scores_of_translations(mixture_of, monkeypatch):
  """Every line is its own translation."""

  def decode(self, lines, pair, *, batch_size, progress):
    progress(len(lines))
    return types.SimpleNamespace(texts=list(lines))

  monkeypatch.setattr(Translator, "decode", decode)
  told = []
  texts = {
    "en-de": PairText.of_rows([("a b c d", "a b c d")]),
    "de-en": PairText.of_rows([("a b", "x y")] * 3),
  }
  scores = score_pairs(mixture_of(), texts, progress=told.append)
  assert scores["en-de"] == pytest.approx({"bleu": 100, "chrf": 100})
  assert scores["de-en"]["chrf"] == 0
  assert told == [1, 3]
  assert bleu_by_pair(mixture_of(), texts) == {
    pair: found["bleu"] for pair, found in scores.items()
  }

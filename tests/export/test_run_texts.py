"""What a run has kept of text and scores."""

import dataclasses
import json

import pytest

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.export.run_texts import known_scores, texts_to_score


def test_text_to_score(tmp_path):
  folder = tmp_path / "evaluation" / "test-3"
  folder.mkdir(parents=True)
  (folder / "en-de.src.txt").write_text("a\nb\nc\n")
  (folder / "en-de.ref.txt").write_text("d\ne\nf\n")
  (text,) = texts_to_score(tmp_path, ["en-de"], 2).values()
  assert dataclasses.asdict(text) == {
    "sources": ["a", "b"],
    "references": [["d", "e"]],
  }
  assert texts_to_score(tmp_path, ["en-de"], 0) == {}
  with pytest.raises(
    TaskMoeError, match=r"no text of fr-de to score: .* First taskmoe evaluate"
  ):
    texts_to_score(tmp_path, ["en-de", "fr-de"], 2)
  with pytest.raises(TaskMoeError, match=r"--score=-1 is not a number of sent"):
    texts_to_score(tmp_path, ["en-de"], -1)


def test_scores_that_are_known(tmp_path):
  """Those of the same step and the whole test part."""
  assert known_scores(tmp_path, 30) == {}
  for name, step, bleu in (
    ("test-30-greedy", 30, 4.5),
    ("test-30-beam4-lp0.6", 30, 5.5),
    ("test-300-beam4", 300, 6.5),
    ("test-first9-30-beam4", 30, 7.5),
    ("validation-30-beam4", 30, 8.5),
  ):
    folder = tmp_path / "evaluation" / name
    folder.mkdir(parents=True)
    rows = [{"pair": "en-de", "bleu": bleu}, {"pair": "de-en", "chrf": 9.0}]
    results = {"averages": {}, "step": step, "pairs": rows}
    (folder / "results.json").write_text(json.dumps(results))
  assert known_scores(tmp_path, 30) == {"en-de": 5.5}
  assert known_scores(tmp_path, 31) == {}

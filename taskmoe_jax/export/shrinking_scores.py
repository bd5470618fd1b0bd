"""What it costs in BLEU to make a bundle smaller."""

from collections.abc import Mapping, Sequence

from etils import epath

from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.results import read_text
from taskmoe_jax.evaluate.scores import Scoring, score_pair
from taskmoe_jax.evaluate.texts import PairText


def bleu_by_pair(
  translator: Translator, texts: Mapping[str, PairText]
) -> dict[str, float]:
  """BLEU of greedy translations, as `taskmoe evaluate` counts it."""
  scoring = Scoring(metrics=("bleu",), tokenizer="intl", bootstrap=0)
  return {
    pair: score_pair(
      pair, translator.translate(text.sources, pair), text.references, scoring
    )["bleu"].score
    for pair, text in texts.items()
  }


def texts_to_score(
  run_dir: epath.PathLike, pairs: Sequence[str], number: int
) -> dict[str, PairText]:
  """The first sentences of each pair that a run was evaluated on.

  Args:
    run_dir: The run.
    pairs: Which.
    number: How many of each; if 0 there is nothing to score.

  Raises:
    TaskMoeError: It was not evaluated on these pairs.
  """
  if number < 0:
    raise TaskMoeError(
      f"--score={number} is no number of sentences: at least 0. Set --score."
    )
  found = {}
  folders = sorted((epath.Path(run_dir) / "evaluation").glob("*"))
  for pair in pairs if number else ():
    place = next((f for f in folders if (f / f"{pair}.src.txt").exists()), None)
    if place is None:
      raise TaskMoeError(
        f"there is no text of {pair} to score: the run {str(run_dir)!r} was"
        f" not evaluated on it. First taskmoe evaluate --run_dir={run_dir}, or"
        " leave out --score."
      )
    text = read_text(place, pair)
    found[pair] = PairText(
      text.sources[:number], [lines[:number] for lines in text.references]
    )
  return found

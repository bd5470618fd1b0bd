"""Text that a run has kept, and the scores of its evaluations."""

from collections.abc import Callable, Mapping, Sequence

from etils import epath

from taskmoe_jax.bundles.manifest import Manifest
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.results import RESULTS, read_results, read_text
from taskmoe_jax.evaluate.scores import Scoring, score_pair
from taskmoe_jax.evaluate.texts import PairText
from taskmoe_jax.export.verify import Samples
from taskmoe_jax.runs.directory import load_samples

# `bleu` and `chrf` by pair.
ScoresOfPairs = dict[str, dict[str, float]]

_BATCH_SIZE = 64


def score_pairs(
  translator: Translator,
  texts: Mapping[str, PairText],
  *,
  metrics: Sequence[str] = ("bleu", "chrf"),
  progress: Callable[[int], None] = lambda number: None,
) -> ScoresOfPairs:
  """Translates greedily, and scores as `taskmoe evaluate` does.

  Args:
    translator: The mixture, or a bundle.
    texts: Sentences with references, by pair.
    metrics: Which scores.
    progress: Called with the number of sentences that have just been done.
  """
  scoring = Scoring(metrics=tuple(metrics), tokenizer="intl", bootstrap=0)
  found = {}
  for pair, text in texts.items():
    hypotheses = translator.decode(
      text.sources, pair, batch_size=_BATCH_SIZE, progress=progress
    ).texts
    scores = score_pair(pair, hypotheses, text.references, scoring)
    found[pair] = {name: score.score for name, score in scores.items()}
  return found


def bleu_by_pair(
  translator: Translator, texts: Mapping[str, PairText]
) -> dict[str, float]:
  """BLEU alone; see `score_pairs`."""
  found = score_pairs(translator, texts, metrics=("bleu",))
  return {pair: scores["bleu"] for pair, scores in found.items()}


def samples_for(
  folder: epath.Path, manifest: Manifest, run_dir: epath.PathLike | None
) -> Samples:
  """Sentences of a bundle's pairs, which its run has kept.

  Raises:
    TaskMoeError: The run is not there, or is another.
  """
  run = epath.Path(run_dir or manifest.source.run)
  if not (run / "samples.json").exists():
    raise TaskMoeError(
      f"the run {str(run)!r} that the bundle {str(folder)!r} is from is not"
      " there, and its sentences are what formats are checked with. Set"
      " --run_dir to where it is."
    )
  samples = load_samples(run)
  missing = [pair for pair in manifest.pairs if pair not in samples]
  if missing:
    raise TaskMoeError(
      f"the run {str(run)!r} has no sentences of {', '.join(missing)}, which"
      f" the bundle {str(folder)!r} translates. Set --run_dir to its run."
    )
  return {pair: samples[pair] for pair in manifest.pairs}


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
      f"--score={number} is not a number of sentences: at least 0. Set --score."
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


def known_scores(run_dir: epath.PathLike, step: int) -> dict[str, float]:
  """BLEU by pair of a run's test part at a step; empty if never evaluated.

  Of several evaluations, with beams or greedily, the first by its name.
  """
  folder = epath.Path(run_dir) / "evaluation"
  if not folder.exists():
    return {}
  for path in sorted(folder.glob(f"test-{step}*")):
    if not (path / RESULTS).exists():
      continue
    found = read_results(path)
    if found.get("step") == step:
      return {
        row["pair"]: row["bleu"] for row in found["pairs"] if "bleu" in row
      }
  return {}

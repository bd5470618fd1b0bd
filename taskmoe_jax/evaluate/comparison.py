"""What changed between two evaluations of the same text.

Differences are B - A, and each comes with the probability of seeing one as
large if the two were equally good (`sacrebleu.significance`: paired bootstrap,
or approximate randomisation). Sentences are compared by chrF.
"""

import contextlib
import enum
import os
from collections.abc import Iterator, Sequence
from typing import Any

import rich.console
import rich.progress
from etils import epath
from sacrebleu.significance import PairedTest, Result

from taskmoe_jax.errors import TaskMoeError, as_member
from taskmoe_jax.evaluate import results as files
from taskmoe_jax.evaluate.groups import average
from taskmoe_jax.evaluate.metrics import Tokenizer, make_metric
from taskmoe_jax.evaluate.results import Results, read_results
from taskmoe_jax.evaluate.scores import Scoring, one_line
from taskmoe_jax.task_space import split_pair

Comparison = dict[str, Any]

# Probability below which a difference is called significant.
LEVEL = 0.05
# Sentences shown of each pair, much better and much worse.
_SHOWN = 5


class Significance(enum.StrEnum):
  """How sacrebleu tells a difference from chance."""

  BOOTSTRAP = "bootstrap"
  RANDOMIZATION = "randomization"


_TESTS = {Significance.BOOTSTRAP: "bs", Significance.RANDOMIZATION: "ar"}


def find_results(
  first: epath.PathLike, second: epath.PathLike
) -> tuple[epath.Path, epath.Path]:
  """Finds two folders of results of the same text.

  Each name is a folder of results, or a run or bundle with such folders in its
  `evaluation/`. Of several, the newest two of the same text are taken.
  """
  pairs = [
    (a, b)
    for a in _folders(first)
    for b in _folders(second)
    if _subject(a) == _subject(b)
  ]
  if not pairs:
    found = "; ".join(
      f"{name} has {', '.join(folder.name for folder in _folders(name))}"
      for name in map(str, (first, second))
    )
    raise TaskMoeError(
      f"no two evaluations of the same text: {found}. Evaluate both on one"
      " text, then set --compare."
    )
  return max(
    pairs, key=lambda pair: sum((f / files.RESULTS).stat().mtime for f in pair)
  )


def _folders(name: epath.PathLike) -> list[epath.Path]:
  folder = epath.Path(name)
  if (folder / files.RESULTS).exists():
    return [folder]
  found = sorted(
    path.parent for path in folder.glob(f"evaluation/*/{files.RESULTS}")
  )
  if not found:
    read_results(folder)
  return found


def _subject(folder: epath.Path) -> tuple[str, frozenset[str]]:
  results = read_results(folder)
  examples = {f"{row['pair']} {row['examples']}" for row in results["pairs"]}
  return results["text"]["name"], frozenset(examples)


def compare(
  first: epath.Path,
  second: epath.Path,
  *,
  significance: Significance | str,
  samples: int,
  console: rich.console.Console,
) -> Comparison:
  """Compares two folders of results.

  Args:
    first: The folder of A, the baseline.
    second: The folder of B, the new system.
    significance: Which test tells a difference from chance.
    samples: Resamples or trials; 0 for sacrebleu's default, 1000 or 10000.
    console: Where progress is shown.

  Raises:
    TaskMoeError: Their texts differ, or they were scored differently.
  """
  kind = as_member(Significance, "significance", significance, "--significance")
  assert isinstance(kind, Significance)
  a, b = read_results(first), read_results(second)
  _check_scored_alike(a, b, first, second)
  scoring = Scoring(**b["scoring"])
  rows = {row["pair"]: row for row in a["pairs"]}
  shared = [row["pair"] for row in b["pairs"] if row["pair"] in rows]
  if not shared:
    raise TaskMoeError(
      f"{str(first)!r} and {str(second)!r} have no pair in common. Set"
      " --compare to evaluations of the same pairs."
    )
  compared = []
  with rich.progress.Progress(console=console, transient=True) as progress:
    for pair in progress.track(shared, description="comparing"):
      compared.append(
        _compare_pair(pair, first, second, scoring, kind, samples)
      )
  return {
    "a": {"folder": str(first), **_named(a)},
    "b": {"folder": str(second), **_named(b)},
    "text": b["text"],
    "significance": str(kind),
    "metrics": list(scoring.metrics),
    "pairs": compared,
    "averages": _averages(b, compared, scoring.metrics),
  }


def _named(results: Results) -> dict[str, Any]:
  return {key: results[key] for key in ("model", "step", "search")}


def _check_scored_alike(
  a: Results, b: Results, first: epath.Path, second: epath.Path
) -> None:
  for key in ("metrics", "tokenizer"):
    if a["scoring"][key] != b["scoring"][key]:
      raise TaskMoeError(
        f"{str(first)!r} was scored with {key} {a['scoring'][key]}, and"
        f" {str(second)!r} with {b['scoring'][key]}. Run `taskmoe evaluate`"
        f" again with one --{key}: what is translated is not translated again."
      )


def _compare_pair(
  pair: str,
  first: epath.Path,
  second: epath.Path,
  scoring: Scoring,
  significance: Significance,
  samples: int,
) -> dict[str, Any]:
  texts = [files.read_text(folder, pair) for folder in (first, second)]
  if texts[0] != texts[1]:
    raise TaskMoeError(
      f"{pair} is another text in {str(first)!r} than in {str(second)!r}: their"
      " sources or references differ. Evaluate both on one text."
    )
  systems: list[tuple[str, Sequence[str]]] = [
    (name, [one_line(line) for line in files.read_hypotheses(folder, pair)])
    for name, folder in (("A", first), ("B", second))
  ]
  scores = {}
  for metric in scoring.metrics:
    # One test for each metric: sacrebleu's table of results holds one BLEU and
    # one chrF.
    with _quiet():
      signatures, found = PairedTest(
        systems,
        {
          metric: make_metric(
            metric, split_pair(pair)[1], Tokenizer(scoring.tokenizer)
          )
        },
        [list(map(one_line, lines)) for lines in texts[0].references],
        test_type=_TESTS[significance],
        n_samples=samples,
      )()
    name = next(key for key in found if key != "System")
    before, after = found[name]
    # Only sacrebleu's column of names has strings.
    assert isinstance(before, Result)
    assert isinstance(after, Result)
    scores[metric] = {
      "a": before.score,
      "b": after.score,
      "difference": after.score - before.score,
      # sacrebleu gives its smallest p where nothing at all differs.
      "p": after.p_value if after.score != before.score else 1.0,
      "signature": str(signatures[name]),
    }
  return {
    "pair": pair,
    "examples": len(texts[0].sources),
    "metrics": scores,
    "sentences": _changed_sentences(pair, first, second),
  }


def _changed_sentences(
  pair: str, first: epath.Path, second: epath.Path
) -> dict[str, list[dict[str, Any]]]:
  """The sentences whose chrF rose and fell most."""
  before, after = (
    files.sentence_scores_of(folder, pair) for folder in (first, second)
  )
  changes = [b - a for a, b in zip(before, after, strict=True)]
  order = sorted(range(len(changes)), key=lambda i: (-changes[i], i))
  text = files.read_text(second, pair)
  old, new = (files.read_hypotheses(f, pair) for f in (first, second))

  def described(index: int) -> dict[str, Any]:
    return {
      "line": index + 1,
      "chrf": [before[index], after[index]],
      "source": text.sources[index],
      "a": old[index],
      "b": new[index],
      "reference": text.references[0][index],
    }

  return {
    "better": [described(i) for i in order[:_SHOWN] if changes[i] > 0],
    "worse": [described(i) for i in order[::-1][:_SHOWN] if changes[i] < 0],
  }


def _averages(
  results: Results, rows: Sequence[dict[str, Any]], metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
  """Averages over the shared pairs of each group."""
  found = {row["pair"]: row["metrics"] for row in rows}
  averages: dict[str, dict[str, Any]] = {}
  for group, pairs in results["groups"].items():
    shared = [pair for pair in pairs if pair in found]
    if shared:
      averages[group] = {"pairs": len(shared)}
      for metric in metrics:
        a, b = (
          average({pair: found[pair][metric][side] for pair in shared}, shared)
          for side in ("a", "b")
        )
        averages[group][metric] = {"a": a, "b": b, "difference": b - a}
  return averages


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
  """Keeps what sacrebleu prints of its progress out of ours."""
  with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
    yield

"""What an evaluation leaves behind, and how it is read again.

A folder of results looks so:

  results.json      all there is to know about the run of an evaluation
  results.md        the same as a table
  index.html        the same to look at: charts, worst and best sentences
  de-en.src.txt     the sources, one sentence per line
  de-en.hyp.txt     their translations
  de-en.ref.txt     the references (of further translators: de-en.ref2.txt)
  de-en.json        what made the translations, and their scores

Each file is written under a temporary name and then renamed. A pair's
`de-en.json` comes after its texts, `results.json` after all pairs: whoever
sees one sees what it speaks of. It is also what makes an evaluation resumable:
a pair whose record says that the very same model and search made the very same
lines is not translated again.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from etils import epath

from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate.groups import average
from taskmoe_jax.evaluate.metrics import label as metric_label
from taskmoe_jax.evaluate.scores import Score, Scoring, one_line
from taskmoe_jax.evaluate.texts import PairText, Text
from taskmoe_jax.files import write_whole

Results = dict[str, Any]

RESULTS = "results.json"


@dataclasses.dataclass(frozen=True)
class PairRecord:
  """One pair of an evaluation.

  Attributes:
    pair: Such as `de-en`.
    made_by: Fingerprint of what translated what: model, search and sources.
    hypotheses_sha256: Of the file of translations.
    examples: Number of sentences.
    tokens: Target tokens that were decoded.
    seconds: Wall time of decoding them.
    unfinished: Translations that were cut off at the longest length.
    scored_by: Fingerprint of how what was scored; empty if nothing yet.
    scores: By metric.
    sentence_chrf: The chrF of each sentence.
  """

  pair: str
  made_by: str
  hypotheses_sha256: str
  examples: int
  tokens: int
  seconds: float
  unfinished: int
  scored_by: str = ""
  scores: Mapping[str, Score] = dataclasses.field(default_factory=dict)
  sentence_chrf: Sequence[float] = ()

  def row(self) -> dict[str, Any]:
    """The pair's row in `results.json`."""
    named = self.scores.items()
    return {
      "pair": self.pair,
      "examples": self.examples,
      "tokens": self.tokens,
      "seconds": self.seconds,
      "unfinished": self.unfinished,
      **{name: score.score for name, score in named},
      "intervals": {name: score.interval for name, score in named},
      "signatures": {name: score.signature for name, score in named},
    }


def write_texts(
  folder: epath.Path, pair: str, text: PairText, hypotheses: Sequence[str]
) -> str:
  """Writes the lines of a pair; returns the checksum of its translations.

  A line break inside a sentence becomes a space.
  """
  folder.mkdir(parents=True, exist_ok=True)
  for path, lines in (
    (folder / f"{pair}.src.txt", text.sources),
    *zip(
      reference_paths(folder, pair, len(text.references)),
      text.references,
      strict=True,
    ),
    (folder / f"{pair}.hyp.txt", hypotheses),
  ):
    content = "".join(f"{one_line(line)}\n" for line in lines).encode()
    write_whole(path, content)
  return hashlib.sha256(content).hexdigest()


def write_record(folder: epath.Path, record: PairRecord) -> None:
  text = json.dumps(dataclasses.asdict(record), ensure_ascii=False)
  write_whole(folder / f"{record.pair}.json", f"{text}\n".encode())


def read_record(folder: epath.Path, pair: str) -> PairRecord | None:
  """Reads what is said of a pair, if that is what its translations are.

  Whatever is missing, damaged or does not fit is as if it were not there: the
  pair is translated again.
  """
  try:
    values = json.loads((folder / f"{pair}.json").read_text())
    scores = {name: Score(**score) for name, score in values["scores"].items()}
    record = PairRecord(**{**values, "scores": scores})
    content = (folder / f"{pair}.hyp.txt").read_bytes()
  except (OSError, ValueError, TypeError, KeyError, AttributeError):
    return None
  same = hashlib.sha256(content).hexdigest() == record.hypotheses_sha256
  return record if same else None


def sentence_scores_of(folder: epath.Path, pair: str) -> Sequence[float]:
  """The chrF of each sentence of a pair that has been scored.

  Raises:
    TaskMoeError: The pair's record is missing or does not match its text.
  """
  record = read_record(folder, pair)
  if record is None:
    raise TaskMoeError(
      f"{str(folder)!r} has no {pair}.json that matches {pair}.hyp.txt. Run"
      " `taskmoe evaluate` again: it translates and scores this pair."
    )
  return record.sentence_chrf


def read_hypotheses(folder: epath.Path, pair: str) -> list[str]:
  return _read_lines(folder / f"{pair}.hyp.txt")


def read_text(folder: epath.Path, pair: str) -> PairText:
  """Reads the sources and all references of a pair."""
  references = [_read_lines(folder / f"{pair}.ref.txt")]
  while (path := folder / f"{pair}.ref{len(references) + 1}.txt").exists():
    references.append(_read_lines(path))
  return PairText(_read_lines(folder / f"{pair}.src.txt"), references)


def reference_paths(
  folder: epath.Path, pair: str, number: int
) -> list[epath.Path]:
  """The files of references, one for each translator."""
  endings = ["", *range(2, number + 1)]
  return [folder / f"{pair}.ref{ending}.txt" for ending in endings]


def write_results(
  folder: epath.Path, results: Results, pages: Mapping[str, str]
) -> None:
  """Writes `pages` by file name, then `results.json`."""
  text = json.dumps(results, ensure_ascii=False, allow_nan=False, indent=2)
  folder.mkdir(parents=True, exist_ok=True)
  for name, page in pages.items():
    write_whole(folder / name, page.encode())
  write_whole(folder / RESULTS, f"{text}\n".encode())


def read_results(folder: epath.PathLike) -> Results:
  """Reads the `results.json` of a folder."""
  path = epath.Path(folder) / RESULTS
  try:
    results = json.loads(path.read_text())
    if not isinstance(results, dict) or "averages" not in results:
      raise ValueError("it has no averages")
  except OSError:
    raise TaskMoeError(
      f"{str(folder)!r} has no {RESULTS}: name a folder of results, or a run"
      " that `taskmoe evaluate` has evaluated."
    ) from None
  except ValueError as error:
    raise TaskMoeError(f"{str(path)!r} is damaged: {error}.") from None
  return results


def gather(
  records: Sequence[PairRecord],
  groups: Mapping[str, Sequence[str]],
  *,
  model: tuple[str, int],
  text: Text,
  search: Mapping[str, Any],
  scoring: Scoring,
  notes: Sequence[str],
) -> Results:
  """Gathers what `results.json` holds.

  Args:
    records: In the order of the tables.
    groups: Pairs by group, see `groups.groups_of`.
    model: The run directory or bundle that was evaluated, and the training
      steps behind its parameters.
    text: What was translated.
    search: Settings of the search by name; no score can be compared without.
    scoring: How it was scored.
    notes: What a reader must know of these scores.
  """
  scores = {
    metric: {record.pair: record.scores[metric].score for record in records}
    for metric in records[0].scores
  }
  seconds = sum(record.seconds for record in records)
  tokens = sum(record.tokens for record in records)
  return {
    "model": model[0],
    "step": model[1],
    "text": {"name": text.name, "origin": text.origin},
    "search": dict(search),
    "scoring": scoring.description(),
    "notes": list(notes),
    "seconds": seconds,
    "tokens": tokens,
    "tokens_per_second": tokens / seconds if seconds else 0.0,
    "groups": {name: list(pairs) for name, pairs in groups.items()},
    "averages": {
      name: {
        "pairs": len(pairs),
        **{
          metric: average(by_pair, pairs) for metric, by_pair in scores.items()
        },
      }
      for name, pairs in groups.items()
    },
    "pairs": [record.row() for record in records],
  }


def signature_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
  """One line per signature, with the pairs it holds for if not for all."""
  rows = list(rows)
  pairs_of: dict[tuple[str, str], list[str]] = {}
  for row in rows:
    for metric, signature in row["signatures"].items():
      pairs_of.setdefault((metric, signature), []).append(row["pair"])
  metrics = list(dict.fromkeys(metric for metric, _ in pairs_of))
  return [
    f"{metric_label(metric)}: `{signature}`"
    + ("" if len(pairs) == len(rows) else f" ({', '.join(pairs)})")
    for (metric, signature), pairs in sorted(
      pairs_of.items(), key=lambda item: metrics.index(item[0][0])
    )
  ]


def _read_lines(path: epath.Path) -> list[str]:
  return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")

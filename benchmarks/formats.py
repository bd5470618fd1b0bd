"""What each format of a bundle costs: bytes, exactness, BLEU and seconds.

  python benchmarks/formats.py --bundles=RUN/export-700 \
    --texts=RUN/evaluation/test-700 \
    --formats=ctranslate2,ctranslate2_float16,ctranslate2_int8

Takes a folder of bundles, and texts as `taskmoe evaluate` leaves them there:
PAIR.src.txt and PAIR.ref.txt. A format that a bundle has not yet is written to
a temporary folder. Each is loaded in its own engine and compared with the
bundle's own decoder, which searches as the engine does by convention: scores of
the references, translations, their BLEU, and CPU seconds (of all threads of the
process together; the second of two runs). A translation that is another is a
tie if its score is no worse, but for rounding; else it is worse. `--json` has
one line for each pair, with the sources of those.
"""

import argparse
import collections
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rich.console
import rich.progress
import rich.table
from etils import epath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import decode
from taskmoe_jax.bundles import bundle
from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.decoding.search import GREEDY, Beam, Greedy, Lengths
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.evaluate.scores import Scoring, score_pair
from taskmoe_jax.export.formats import engine_check
from taskmoe_jax.export.formats.ctranslate2 import writer as ctranslate2_writer
from taskmoe_jax.export.formats.format import Expected, formats_named
from taskmoe_jax.export.verify import in_float32

_CT2 = ("ctranslate2:CTranslate2Engine", ctranslate2_writer.SEARCH)
# Who runs a format, and how it searches.
_ENGINES: dict[str, tuple[str, Beam | Greedy]] = {
  "huggingface": ("huggingface:HuggingFaceEngine", engine_check.SEARCH),
  "ctranslate2": _CT2,
  "ctranslate2_float16": _CT2,
  "ctranslate2_int8": _CT2,
  "stablehlo": ("stablehlo:StableHloEngine", GREEDY),
}
_SCORING = Scoring(metrics=("bleu",), tokenizer="intl", bootstrap=0)
_LONGEST = 128


class Decoder:
  """A bundle's own decoder, which remembers what it has found."""

  def __init__(self, translator: Translator):
    self.translator = in_float32(translator)
    self._found: dict[Any, tuple[list, float]] = {}

  def translate(
    self, sources: Sequence[str], pair: str, search: Beam | Greedy
  ) -> tuple[list, float]:
    """The best hypotheses, and CPU seconds."""
    key = (pair, search)
    if key not in self._found:
      self._found[key] = timed(
        lambda: [
          of_one[0]
          for of_one in self.translator.decode(
            sources,
            pair,
            batch_size=32,
            search=search,
            lengths=Lengths(max_target=_LONGEST),
          ).n_best
        ]
      )
    return self._found[key]


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
  """What a function returns, and the CPU seconds of its second call."""
  function()
  begin = time.process_time()
  found = function()
  return found, time.process_time() - begin


def of_pairs(
  decoder: Decoder, folder: epath.Path, name: str, texts: Path
) -> Iterator[dict[str, Any]]:
  """Measures of one format of one bundle, pair by pair."""
  engine_name, search = _ENGINES[name]
  module, attribute = engine_name.split(":")
  module = importlib.import_module(
    f"taskmoe_jax.export.formats.{module}.engine"
  )
  engine = getattr(module, attribute)(folder)
  translator = decoder.translator
  for pair in translator.task_space.pairs:
    sources, references = (
      (texts / f"{pair}.{side}.txt").read_text().splitlines()
      for side in ("src", "ref")
    )
    ours, our_seconds = decoder.translate(sources, pair, search)
    theirs, seconds = timed(
      lambda sources=sources, pair=pair: engine.translate(
        sources, pair, search, _LONGEST
      )
    )
    differences = engine_check.score_differences(
      Expected(translator, {pair: list(zip(sources, references, strict=True))}),
      engine,
      pair,
    )
    same = np.asarray(
      [a.token_ids == b.token_ids for a, b in zip(ours, theirs, strict=True)]
    )
    losses = np.asarray(
      [a.score - b.score for a, b in zip(ours, theirs, strict=True)]
    )
    worse = ~same & (losses > engine_check.TOLERANCE)
    yield {
      "pair": pair,
      "sentences": len(sources),
      "max_score_difference": float(differences.max()),
      "identical": int(same.sum()),
      "worse": [sources[i] for i in np.flatnonzero(worse)],
      "bundle_bleu": _bleu(pair, ours, references),
      "bleu": _bleu(pair, theirs, references),
      "bundle_seconds": our_seconds,
      "seconds": seconds,
    }


def _bleu(pair: str, found: Sequence, references: Sequence[str]) -> float:
  texts = [hypothesis.text for hypothesis in found]
  return score_pair(pair, texts, [references], _SCORING)["bleu"].score


def written(
  path: epath.Path, translator: Translator, name: str, place: Path
) -> epath.Path:
  """The folder of a format, which is written if the bundle has it not."""
  if (path / name).exists():
    return path / name
  for own in ("model.safetensors", "vocabulary.model"):
    link = place / path.name / own
    link.parent.mkdir(exist_ok=True)
    if not link.exists():
      link.symlink_to((path / own).resolve())
  folder = epath.Path(place / path.name / name)
  folder.mkdir()
  writer = formats_named(name)[name]
  writer.write(translator, folder, About(path.name, str(path), 0, (0, 0), {}))
  return folder


def size(folder: epath.Path) -> int:
  """Bytes of a folder's own files."""
  return sum(x.stat().length for x in folder.iterdir() if not x.is_dir())


def summary(name: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
  """One row of the table; averages over pairs, and the worst of them."""
  changes = [row["bleu"] - row["bundle_bleu"] for row in rows]
  sentences = sum(row["sentences"] for row in rows)
  identical = sum(row["identical"] for row in rows)
  worse = sum(len(row["worse"]) for row in rows)
  return {
    "format": name,
    "MB": float(np.mean([row["bytes"] for row in rows])) / 1e6,
    "bundle MB": float(np.mean([row["bundle_bytes"] for row in rows])) / 1e6,
    "pairs": len(rows),
    "score difference": max(row["max_score_difference"] for row in rows),
    "identical": f"{identical}/{sentences}",
    "ties": sentences - identical - worse,
    "worse": worse,
    "bundle BLEU": float(np.mean([row["bundle_bleu"] for row in rows])),
    "BLEU change": float(np.mean(changes)),
    "worst change": min(changes),
    "bundle CPU s": sum(row["bundle_seconds"] for row in rows),
    "CPU s": sum(row["seconds"] for row in rows),
  }


def measure(flags: argparse.Namespace, place: Path) -> list[dict[str, Any]]:
  """Measures of all formats, bundles and pairs."""
  paths = [p for p in sorted(flags.bundles.iterdir()) if bundle.is_bundle(p)]
  if flags.tasks:
    paths = [p for p in paths if p.name in flags.tasks.split(",")]
  names = flags.formats.split(",")
  rows = []
  for path in rich.progress.track(paths, transient=True):
    path = epath.Path(path)
    translator = bundle.load_bundle(path)
    decoder = Decoder(translator)
    for name in names:
      folder = written(path, translator, name, place)
      common = {
        "bundle": path.name,
        "format": name,
        "bytes": size(folder),
        "bundle_bytes": size(path),
      }
      for row in of_pairs(decoder, folder, name, flags.texts):
        rows.append({**common, **row})
  return rows


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--bundles", type=Path, required=True)
  parser.add_argument("--texts", type=Path, required=True)
  parser.add_argument("--formats", default=",".join(_ENGINES))
  parser.add_argument("--tasks", help="only these bundles, as a list")
  parser.add_argument("--json", type=Path, help="where to write all rows")
  flags = parser.parse_args(arguments)
  with tempfile.TemporaryDirectory() as place:
    rows = measure(flags, Path(place))
  by_format = collections.defaultdict(list)
  for row in rows:
    by_format[row["format"]].append(row)
  summaries = [summary(name, of_one) for name, of_one in by_format.items()]
  table = rich.table.Table("", *(row["format"] for row in summaries))
  for name in list(summaries[0])[1:]:
    table.add_row(name, *(decode.text(row[name]) for row in summaries))
  rich.console.Console().print(table)
  if flags.json:
    flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return summaries


if __name__ == "__main__":
  main()

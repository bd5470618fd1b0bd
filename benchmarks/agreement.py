"""Whether other engines say what our bundles say, sentence by sentence.

  python benchmarks/agreement.py --bundles=runs/a/export-700 --tasks=cs,de,en
  python benchmarks/agreement.py ... --tsv=FOLDER     # other text than CLDR's

Each bundle is written in each format. Then both translate, greedily and with a
beam of four, and both say how likely the references are. A tie is a translation
with other tokens whose score is no worse than ours, but for 1e-3; what is worse
is printed. Needs taskmoe-jax[export].
"""

import argparse
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import rich.console
import rich.table
import torch
from etils import epath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from taskmoe_jax.bundles.bundle import load_bundle
from taskmoe_jax.bundles.manifest import About
from taskmoe_jax.data.corpus import Mixture, examples
from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.decoding.search import GREEDY, Beam, Stopping
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export.formats.ctranslate2.engine import CTranslate2Engine
from taskmoe_jax.export.formats.engine_check import (
  SEARCH,
  Engine,
  compare_translations,
  score_differences,
)
from taskmoe_jax.export.formats.format import Expected, formats_named
from taskmoe_jax.export.formats.huggingface.engine import HuggingFaceEngine
from taskmoe_jax.export.verify import in_float32
from taskmoe_jax.tasks.cldr import cldr_30
from taskmoe_jax.tasks.tsv import tsv

# How to run each, and the beam search that it does by convention.
_ENGINES: dict[str, tuple[Callable[[epath.Path], Engine], Beam]] = {
  "huggingface": (HuggingFaceEngine, SEARCH),
  "ctranslate2": (
    CTranslate2Engine,
    dataclasses.replace(SEARCH, stopping=Stopping.FULL),
  ),
}
_SEARCHES = ("greedy", "beam 4")


def engine_of(name: str, bundle: Translator, folder: Path) -> Engine:
  """Writes a bundle in a format, and loads it."""
  folder.mkdir(parents=True)
  writer = formats_named(name)[name]
  writer.refuse(bundle.model)
  about = About(name, "agreement", 0, (0, 0), {})
  writer.write(bundle, epath.Path(folder), about)
  return _ENGINES[name][0](epath.Path(folder))


def agreement(
  name: str, expected: Expected, engine: Engine, pair: str
) -> dict[str, Any]:
  """A row of the table."""
  found: dict[str, Any] = {
    "engine": engine.version,
    "pair": pair,
    "sentences": len(expected.samples[pair]),
    "max score difference": float(
      np.max(score_differences(expected, engine, pair))
    ),
  }
  searches = (GREEDY, _ENGINES[name][1])
  for title, search in zip(_SEARCHES, searches, strict=True):
    of_one = compare_translations(expected, engine, pair, search)
    found[f"{title} same"] = of_one.identical
    found[f"{title} ties"] = of_one.ties
    found[f"{title} worse"] = list(of_one.worse)
  return found


def show(console: rich.console.Console, rows: list[dict[str, Any]]) -> None:
  table = rich.table.Table(
    "engine",
    "pair",
    "sentences",
    "score difference",
    *(f"{title}: same, ties, worse" for title in _SEARCHES),
    title="agreement with our own decoder",
  )
  for row in rows:
    table.add_row(
      row["engine"],
      row["pair"],
      str(row["sentences"]),
      f"{row['max score difference']:.1e}",
      *(
        f"{row[f'{title} same']}, {row[f'{title} ties']},"
        f" {len(row[f'{title} worse'])}"
        for title in _SEARCHES
      ),
    )
  console.print(table)
  for row in rows:
    for title in _SEARCHES:
      for source in row[f"{title} worse"]:
        console.print(
          f"worse: {row['engine']}, {row['pair']}, {title}: {source}",
          highlight=False,
          markup=False,
        )


def mixture_of(flags: argparse.Namespace) -> Mixture:
  if flags.tsv:
    return tsv(flags.tsv, vocabulary=None, temperature=1.0)
  return cldr_30(None, seed=0, temperature=1.0)


def main(arguments: list[str] | None = None) -> list[dict[str, Any]]:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument("--bundles", type=Path, required=True)
  parser.add_argument("--tasks", required=True, help="of the bundles")
  parser.add_argument("--formats", default=",".join(_ENGINES))
  parser.add_argument("--sentences", type=int, default=200, help="of a pair")
  parser.add_argument("--part", default="test")
  parser.add_argument("--tsv", help="a folder of parallel text")
  parser.add_argument("--threads", type=int, default=os.cpu_count())
  parser.add_argument("--json", type=Path, help="where to write the rows")
  flags = parser.parse_args(arguments)
  torch.set_num_threads(flags.threads)
  corpus = open_corpus(mixture_of(flags))
  rows = []
  console = rich.console.Console()
  with (
    tempfile.TemporaryDirectory() as folder,
    jax.default_matmul_precision("highest"),
  ):
    for task in flags.tasks.split(","):
      bundle = in_float32(load_bundle(flags.bundles / task))
      text = {
        pair: examples(
          corpus, part=flags.part, pair=pair, limit=flags.sentences
        )
        for pair in bundle.task_space.pairs
      }
      expected = Expected(bundle, text)
      for name in flags.formats.split(","):
        engine = engine_of(name, bundle, Path(folder) / task / name)
        for pair in text:
          console.print(f"{task}: {engine.version}, {pair}", highlight=False)
          rows.append(agreement(name, expected, engine, pair))
  show(console, rows)
  if flags.json:
    flags.json.write_text("".join(json.dumps(row) + "\n" for row in rows))
  return rows


if __name__ == "__main__":
  main()

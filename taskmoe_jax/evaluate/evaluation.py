"""Decodes a test set pair by pair and scores it."""

import time
from collections.abc import Mapping, Sequence

import rich.console
import rich.progress
from etils import epath

from taskmoe_jax.data.corpus import Mixture
from taskmoe_jax.data.corpus import examples as examples_of
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.errors import TaskMoeError, one_of
from taskmoe_jax.evaluate import report
from taskmoe_jax.evaluate.scores import score_pair
from taskmoe_jax.partitioning.meshes import MeshShape
from taskmoe_jax.train.restoring import load_translator

PARTS = ("validation", "test")


def evaluate(
  *,
  mixture: Mixture,
  run_dir: epath.PathLike,
  part: str,
  examples: int | None,
  batch_size: int,
  mesh: MeshShape,
  pairs: Sequence[str] | None = None,
  step: int | None = None,
  console: rich.console.Console | None = None,
) -> report.Results:
  """Translates a part of a mixture, scores every pair and writes the results.

  They go to `RUN_DIR/evaluation/<part>-<step>/`; see `evaluate.report` for the
  files. All sentences are decoded as they are in the corpus; nothing is
  normalised that would change BLEU.

  Args:
    mixture: The seqio mixture whose text is translated.
    run_dir: The run directory.
    part: `validation` or `test`.
    examples: The first so many of each pair; None for all.
    batch_size: Rows decoded together.
    mesh: How to arrange all devices.
    pairs: Which pairs; all of the mixture unless given.
    step: Which checkpoint; the newest unless given.
    console: Where the table is shown.
  """
  if part not in PARTS:
    raise TaskMoeError(one_of("part", part, PARTS) + ". Set --part.")
  console = console or rich.console.Console()
  translator, step = load_translator(run_dir, step=step, mesh=mesh)
  texts = {
    pair: examples_of(mixture, part=part, pair=pair, limit=examples)
    for pair in pairs or translator.task_space.pairs
  }
  begin = time.perf_counter()
  translations, tokens = _translate(translator, texts, batch_size, console)
  seconds = time.perf_counter() - begin
  results = report.results_dict(
    [
      score_pair(pair, found.hypotheses, found.references)
      for pair, found in translations.items()
    ],
    run=str(run_dir),
    step=step,
    split=part,
    decoder={"search": "greedy"},
    seconds=seconds,
    tokens=tokens,
  )
  folder = epath.Path(run_dir) / "evaluation" / f"{part}-{step}"
  report.write_results(folder, results, translations)
  report.print_table(console, results)
  console.print(f"results in {folder}", highlight=False, soft_wrap=True)
  return results


def _translate(
  translator: Translator,
  texts: Mapping[str, Sequence[tuple[str, str]]],
  batch_size: int,
  console: rich.console.Console,
) -> tuple[dict[str, report.Translations], int]:
  """Translates all pairs; returns their texts and the number of tokens."""
  translations, tokens = {}, 0
  with rich.progress.Progress(console=console, transient=True) as progress:
    bar = progress.add_task("translating", total=sum(map(len, texts.values())))
    for pair, rows in texts.items():
      progress.update(bar, description=f"translating {pair}")
      sources, references = zip(*rows, strict=True)
      decoded = translator.decode(
        sources,
        pair,
        batch_size=batch_size,
        progress=lambda number: progress.advance(bar, number),
      )
      translations[pair] = report.Translations(
        sources, decoded.texts, references
      )
      tokens += sum(map(len, decoded.token_ids))
  return translations, tokens

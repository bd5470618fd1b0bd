"""Translates and scores a text pair by pair, and goes on after a kill."""

import dataclasses
import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
import rich.console
import rich.progress
import sacrebleu
from etils import epath
from jax.experimental import multihost_utils

from taskmoe_jax.bundles.bundle import load_bundle, read_manifest
from taskmoe_jax.decoding.search import Lengths, Search
from taskmoe_jax.decoding.translations import Translations
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.evaluate import results
from taskmoe_jax.evaluate.metrics import label as metric_label
from taskmoe_jax.evaluate.results import PairRecord
from taskmoe_jax.evaluate.scores import Scoring, score_pair, sentence_scores
from taskmoe_jax.evaluate.texts import PairText, Text
from taskmoe_jax.hosts import processes
from taskmoe_jax.partitioning.meshes import MeshShape
from taskmoe_jax.runs.checkpoint_folders import checkpoints_folder
from taskmoe_jax.runs.checkpoint_items import read_contents
from taskmoe_jax.runs.directory import load_run
from taskmoe_jax.runs.restoring import load_translator


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """A model with its name.

  Attributes:
    translator: The model.
    folder: The run directory or the bundle.
    step: Training steps behind its parameters.
    fingerprint: Other parameters have another, wherever they lie. It stands
      beside every translation, so that none is taken for that of another model.
  """

  translator: Translator
  folder: epath.Path
  step: int
  fingerprint: str


def load_evaluated(
  *,
  run_dir: epath.PathLike | None,
  bundle: epath.PathLike | None,
  step: int | None,
  mesh: MeshShape | None,
) -> Evaluated:
  """Loads the bundle, or the run if no bundle is named.

  Args:
    run_dir: A run directory.
    bundle: A folder that `taskmoe export` wrote.
    step: Which checkpoint of the run; the newest unless given.
    mesh: How the run's parameters are laid over the devices.
  """
  if bundle is not None:
    manifest = read_manifest(bundle)
    return Evaluated(
      load_bundle(bundle),
      epath.Path(bundle),
      manifest.source.step,
      fingerprint_of(manifest.sha256),
    )
  translator, step = load_translator(run_dir, step=step, mesh=mesh)
  folder = epath.Path(run_dir)
  contents = read_contents(checkpoints_folder(run_dir) / str(step))
  return Evaluated(
    translator,
    folder,
    step,
    fingerprint_of(
      # Checksums of the parameters.
      [load_run(run_dir).description(), contents["params"]]
    ),
  )


def fingerprint_of(value: Any) -> str:
  """A checksum of what JSON can hold."""
  text = json.dumps(value, sort_keys=True, ensure_ascii=False)
  return hashlib.sha256(text.encode()).hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
  """How sentences are translated.

  Attributes:
    search: Greedily, by beams, or by chance.
    lengths: How long sources and translations may be.
    batch_size: Rows decoded together; it changes no translation.
  """

  search: Search
  lengths: Lengths
  batch_size: int

  def description(self) -> dict[str, Any]:
    """All that shapes a translation, as JSON can hold it."""
    return {
      "search": type(self.search).__name__.lower(),
      **dataclasses.asdict(self.search),
      **dataclasses.asdict(self.lengths),
    }


def translate(
  evaluated: Evaluated,
  text: Text,
  decoding: Decoding,
  scoring: Scoring,
  *,
  folder: epath.Path,
  console: rich.console.Console,
) -> list[PairRecord]:
  """Translates and scores all pairs that are not done yet.

  Where there are several processes all of them translate together, and the
  first one writes, scores and prints. What is done already is for it to say:
  the others may see the folder late, or not at all. They wait while it scores.

  Args:
    evaluated: The model.
    text: What to translate.
    folder: See `evaluate.results`.
    console: Where progress is shown.

  Returns:
    A record of each pair, in order; nothing but for the first process.
  """
  made_by = {
    pair: fingerprint_of(
      [evaluated.fingerprint, decoding.description(), pair, found.sources]
    )
    for pair, found in text.pairs.items()
  }
  records = _done(folder, made_by) if processes.is_first() else {}
  open_pairs = _agreed([pair not in records for pair in text.pairs])
  todo = [
    pair
    for pair, is_open in zip(text.pairs, open_pairs, strict=True)
    if is_open
  ]
  if len(todo) < len(text.pairs):
    console.print(
      f"{len(text.pairs) - len(todo)} of {len(text.pairs)} pairs have been"
      f" translated before: going on in {folder}",
      soft_wrap=True,
    )
  sizes = [len(text.pairs[pair].sources) for pair in todo]
  with _Progress(console, len(todo), sum(sizes)) as progress:
    for pair in text.pairs:
      if pair in todo:
        progress.begin(pair)
        found = _decode(evaluated, pair, text.pairs[pair], decoding, progress)
        if processes.is_first():
          records[pair] = _keep(
            folder, pair, text.pairs[pair], found, made_by[pair]
          )
      if processes.is_first():
        records[pair] = _score(folder, records[pair], text.pairs[pair], scoring)
        progress.say(records[pair], is_new=pair in todo)
      processes.wait_for_all(f"scored/{pair}")
  return [records[pair] for pair in text.pairs if pair in records]


def _done(
  folder: epath.Path, made_by: Mapping[str, str]
) -> dict[str, PairRecord]:
  records = {pair: results.read_record(folder, pair) for pair in made_by}
  return {
    pair: record
    for pair, record in records.items()
    if record and record.made_by == made_by[pair]
  }


def _agreed(flags: Sequence[bool]) -> list[bool]:
  """What the first process says of each pair."""
  if jax.process_count() == 1:
    return list(flags)
  said = multihost_utils.broadcast_one_to_all(np.array(flags, np.int32))
  return [bool(flag) for flag in said]


@dataclasses.dataclass(frozen=True)
class _Found:
  translations: Translations
  seconds: float


def _decode(
  evaluated: Evaluated,
  pair: str,
  text: PairText,
  decoding: Decoding,
  progress: "_Progress",
) -> _Found:
  begin = time.perf_counter()
  translations = evaluated.translator.decode(
    text.sources,
    pair,
    batch_size=decoding.batch_size,
    search=decoding.search,
    lengths=decoding.lengths,
    progress=progress.advance,
  )
  return _Found(translations, time.perf_counter() - begin)


def _keep(
  folder: epath.Path, pair: str, text: PairText, found: _Found, made_by: str
) -> PairRecord:
  """Writes the translations, then the record of them."""
  translations = found.translations
  checksum = results.write_texts(folder, pair, text, translations.texts)
  record = PairRecord(
    pair=pair,
    made_by=made_by,
    hypotheses_sha256=checksum,
    examples=len(text.sources),
    tokens=sum(map(len, translations.token_ids)),
    seconds=found.seconds,
    unfinished=translations.finished.count(False),
  )
  results.write_record(folder, record)
  return record


def _score(
  folder: epath.Path, record: PairRecord, text: PairText, scoring: Scoring
) -> PairRecord:
  """Scores the lines as they are in the files, if that has not been done.

  The references may be others than when the pair was translated: they are
  written again.
  """
  scored_by = fingerprint_of(
    [
      scoring.description(),
      text.references,
      record.hypotheses_sha256,
      sacrebleu.__version__,
      os.environ.get("SACREBLEU_SEED"),
    ]
  )
  if record.scored_by == scored_by:
    return record
  hypotheses = results.read_hypotheses(folder, record.pair)
  results.write_texts(folder, record.pair, text, hypotheses)
  record = dataclasses.replace(
    record,
    scored_by=scored_by,
    scores=score_pair(record.pair, hypotheses, text.references, scoring),
    sentence_chrf=sentence_scores(hypotheses, text.references),
  )
  results.write_record(folder, record)
  return record


class _Progress:
  """A bar with the time that is left, and a line for every pair.

  The bar is only on a terminal; the lines are also in a log.
  """

  def __init__(
    self, console: rich.console.Console, num_pairs: int, num_sentences: int
  ):
    self._console = console
    self._num_pairs = num_pairs
    self._pairs_done = 0
    self._sentences = num_sentences
    self._sentences_done = 0
    self._begin = time.perf_counter()
    self._bar = rich.progress.Progress(
      rich.progress.TextColumn("{task.description}"),
      rich.progress.BarColumn(),
      rich.progress.MofNCompleteColumn(),
      rich.progress.TextColumn("sentences, ETA"),
      rich.progress.TimeRemainingColumn(),
      console=console,
      transient=True,
    )
    self._task = self._bar.add_task("translating", total=num_sentences)

  def __enter__(self) -> "_Progress":
    self._bar.start()
    return self

  def __exit__(self, *_) -> None:
    self._bar.stop()

  def begin(self, pair: str) -> None:
    self._bar.update(self._task, description=f"translating {pair}")

  def advance(self, number: int) -> None:
    self._sentences_done += number
    self._bar.advance(self._task, number)

  def say(self, record: PairRecord, *, is_new: bool) -> None:
    scores = "  ".join(
      f"{metric_label(name)} {score.score:.2f}"
      for name, score in record.scores.items()
    )
    if is_new:
      self._pairs_done += 1
      place = (
        f"{record.examples} sentences in {record.seconds:.1f} s"
        f"  ({self._pairs_done}/{self._num_pairs}, ETA {self._eta()})"
      )
    else:
      place = "translated before"
    self._console.print(
      f"{record.pair}  {scores}  {place}", highlight=False, soft_wrap=True
    )

  def _eta(self) -> str:
    passed = time.perf_counter() - self._begin
    left = self._sentences - self._sentences_done
    seconds = round(passed * left / max(self._sentences_done, 1))
    hours, minutes = divmod(seconds // 60, 60)
    clock = f"{minutes:02}:{seconds % 60:02}"
    return f"{hours}:{clock}" if hours else clock

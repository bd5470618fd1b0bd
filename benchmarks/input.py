"""Measures reading: pairs and tokens a CPU-second, memory, time to a batch.

  python benchmarks/input.py --folder=DIR --vocabulary=FILE.model [--out=FILE]

Four ways read the same folder of TSV files, at the same rates, into packed rows
of the same lengths: live and from a cache as training does it; and as seqio
does it, `seqio.get_dataset` with its own packing, live and from a cache in its
own format. Each is measured in a process of its own, which says how many CPU
seconds its batches took after a warm-up. Memory is that of a process that
reads 10,000 or 1,000,000 lines made for it: its own (anonymous), and with the
pages of files that are mapped, which the system takes back when it wants them.
"""

import argparse
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import rich.console
import rich.table
from seqio_input import LENGTHS, mixture, seqio_rows, write_seqio_cache

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

_BATCH_SIZE = 64
_WAYS = ("live", "cached", "seqio live", "seqio cached")
_SIZES = (10_000, 1_000_000)


def _batches(args: argparse.Namespace, corpus):
  """Batches as training takes them."""
  from taskmoe_jax.data.batches.batches import TrainBatches
  from taskmoe_jax.data.corpus import task_space_of
  from taskmoe_jax.vocabulary import Vocabulary

  return TrainBatches(
    corpus,
    vocabulary=corpus.vocabulary or Vocabulary.load(args.vocabulary),
    task_space=task_space_of(corpus, "target"),
    batch_size=_BATCH_SIZE,
    rows_per_task_group=8,
    source_length=LENGTHS["inputs"],
    target_length=LENGTHS["targets"],
    pack=True,
    seed=0,
  )


def _corpus(args: argparse.Namespace):
  from taskmoe_jax.data.cache.reading import open_cache
  from taskmoe_jax.data.opening import open_corpus

  if args.way == "cached":
    return open_cache(args.cache, temperature=None)
  return open_corpus(mixture(args))


def _count(batch: dict[str, np.ndarray]) -> tuple[int, int]:
  """The pairs and the tokens of both sides in a packed batch."""
  pairs = batch["encoder_segment_ids"].max(axis=1).sum()
  tokens = sum(
    (batch[f"{side}_segment_ids"] > 0).sum() for side in ("encoder", "decoder")
  )
  return int(pairs), int(tokens)


def measure(args: argparse.Namespace) -> dict[str, float]:
  """Reads for some CPU-seconds, after the first batch and a warm-up."""
  begin = time.perf_counter()
  if args.way.startswith("seqio"):
    batches = seqio_rows(args, _BATCH_SIZE)
  else:
    batches = _batches(args, _corpus(args))
  next(batches)
  first = time.perf_counter() - begin
  rows = pairs = tokens = 0
  for _ in range(args.warm_up):
    next(batches)
  cpu = time.process_time()
  while time.process_time() - cpu < args.seconds:
    found = _count(next(batches))
    rows += _BATCH_SIZE
    pairs, tokens = pairs + found[0], tokens + found[1]
  seconds = time.process_time() - cpu
  return {
    "pairs_per_cpu_second": pairs / seconds,
    "tokens_per_cpu_second": tokens / seconds,
    "fill": tokens / rows / sum(LENGTHS.values()),
    "first_batch_seconds": first,
    "own_megabytes": _own_megabytes(),
    "peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
  }


def _own_megabytes() -> float:
  """Memory of this process without the pages of files."""
  status = pathlib.Path("/proc/self/status").read_text()
  return int(status.split("RssAnon:")[1].split()[0]) / 1e3


def _write_lines(folder: pathlib.Path, size: int) -> None:
  generator = np.random.default_rng(0)
  words = ["house", "tree", "Baum", "rot", "one", "and", "das", "seven"]
  with open(folder / "en-de.train.tsv", "w") as file:
    for begin in range(0, size, 10_000):
      chosen = generator.choice(words, (10_000, 16))
      for number, line in enumerate(chosen, begin):
        file.write(f"{number} {' '.join(line[:8])}\t{' '.join(line[8:])}\n")


def _run(args: argparse.Namespace, **changes: object) -> dict[str, float]:
  """Measures in a process of its own, which starts with nothing loaded."""
  values = {**vars(args), "child": True, **changes}
  begin = time.perf_counter()
  run = subprocess.run(
    [sys.executable, __file__, f"--child={json.dumps(values)}"],
    check=True,
    stdout=subprocess.PIPE,
    text=True,
  )
  found = json.loads(run.stdout.splitlines()[-1])
  if "first_batch_at" in found:
    found["process_to_first_batch_seconds"] = found["first_batch_at"] - begin
  return found


def _child(values: dict[str, object]) -> None:
  args = argparse.Namespace(**values)
  match args.job:
    case "measure":
      print(json.dumps(measure(args)))
    case "seqio cache":
      write_seqio_cache(args)
      print("{}")
    case "first batch":
      # The clock is the machine's, and so the parent's too.
      next(_batches(args, _corpus(args)))
      print(json.dumps({"first_batch_at": time.perf_counter()}))
    case "cache":
      _write_cache(args)
      print("{}")


def _write_cache(args: argparse.Namespace) -> None:
  from taskmoe_jax.data.cache.writing import write_cache
  from taskmoe_jax.data.text.vocabulary_training import VocabularySource

  write_cache(
    mixture=mixture(args),
    vocabulary=VocabularySource(
      path=args.vocabulary, size=1, num_sentences=1, seed=0
    ),
    folder=args.cache,
    endless_examples=None,
  )


def compare(args: argparse.Namespace, scratch: pathlib.Path) -> dict:
  """All figures: speeds, ratios, memory, and time to the first batch."""
  args.cache = str(scratch / "cache")
  args.seqio_cache = str(scratch / "seqio")
  _run(args, job="cache")
  _run(args, job="seqio cache")
  speeds = {way: _run(args, job="measure", way=way) for way in _WAYS}
  starts = _run(args, job="first batch", way="cached")
  memory = {}
  for size in _SIZES:
    folder = scratch / f"lines-{size}"
    folder.mkdir()
    _write_lines(folder, size)
    changes = {"folder": str(folder), "cache": str(folder / "cache")}
    _run(args, job="cache", **changes)
    memory[size] = {}
    for way in ("live", "cached"):
      found = _run(args, job="measure", way=way, **changes)
      memory[size][way] = [found["own_megabytes"], found["peak_megabytes"]]
  pairs = {way: found["pairs_per_cpu_second"] for way, found in speeds.items()}
  return {
    "speeds": speeds,
    "ratios": {
      "cached / seqio live": pairs["cached"] / pairs["seqio live"],
      "cached / seqio cached": pairs["cached"] / pairs["seqio cached"],
      "live / seqio live": pairs["live"] / pairs["seqio live"],
    },
    "process_to_first_batch_seconds": starts["process_to_first_batch_seconds"],
    "own_and_peak_megabytes": memory,
  }


def show(console: rich.console.Console, results: dict) -> None:
  table = rich.table.Table()
  for name in ("", "pairs/CPU-s", "tokens/CPU-s", "fill", "first batch"):
    table.add_column(name, justify="right" if name else "left")
  for way, found in results["speeds"].items():
    table.add_row(
      way,
      f"{found['pairs_per_cpu_second']:,.0f}",
      f"{found['tokens_per_cpu_second']:,.0f}",
      f"{found['fill']:.3f}",
      f"{found['first_batch_seconds']:.1f} s",
    )
  console.print(table)
  for name, ratio in results["ratios"].items():
    console.print(f"{name}: {ratio:.1f}")
  seconds = results["process_to_first_batch_seconds"]
  console.print(f"a fresh process to its first batch, cached: {seconds:.1f} s")
  for size, memory in results["own_and_peak_megabytes"].items():
    ways = ", ".join(
      f"{way} {own:.0f} MB ({peak:.0f} MB with mapped files)"
      for way, (own, peak) in memory.items()
    )
    console.print(f"memory, {size:,} lines: {ways}")


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--child", help=argparse.SUPPRESS)
  parser.add_argument("--folder", help="of TSV files")
  parser.add_argument("--vocabulary", help="a SentencePiece model for them")
  parser.add_argument("--seconds", type=float, default=10.0, help="CPU seconds")
  parser.add_argument("--warm_up", type=int, default=20, help="batches")
  parser.add_argument("--out", help="where to write JSON")
  args = parser.parse_args()
  if args.child:
    _child(json.loads(args.child))
    return
  with tempfile.TemporaryDirectory() as scratch:
    results = compare(args, pathlib.Path(scratch))
  show(rich.console.Console(), results)
  if args.out:
    pathlib.Path(args.out).write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
  main()

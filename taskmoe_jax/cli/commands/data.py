"""`taskmoe data`: what a recipe's mixture gives to training.

Sizes, rates, lengths in tokens, what the vocabulary lacks, what cleaning
removed, how full rows are, and some rows decoded to text. Big corpora are
sampled.
"""

import argparse
import pathlib

import rich.console

from taskmoe_jax.cli import data_tables, flags
from taskmoe_jax.config.build import arguments
from taskmoe_jax.errors import TaskMoeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  parser.add_argument(
    "--samples", type=int, default=1000, help="examples to sample of each pair"
  )
  parser.add_argument(
    "--batches", type=int, default=4, help="batches to measure row fill on"
  )
  parser.add_argument(
    "--rows", type=int, default=4, help="rows to show as text"
  )
  parser.add_argument(
    "--plot",
    metavar="FOLDER",
    help="draw lengths and rates there, as one HTML page (data.html)",
  )
  flags.add_gin_flags(parser)


def run(args: argparse.Namespace) -> None:
  for name, minimum in (("samples", 1), ("batches", 1), ("rows", 0)):
    value = getattr(args, name)
    if value < minimum:
      raise TaskMoeError(
        f"--{name}={value} is not at least {minimum}. Set --{name}."
      )
  flags.load(args)
  from taskmoe_jax.data.batches.batches import TrainBatches
  from taskmoe_jax.data.corpus import task_space_of
  from taskmoe_jax.data.opening import open_corpus
  from taskmoe_jax.data.text.statistics import pair_statistics
  from taskmoe_jax.train import loop
  from taskmoe_jax.vocabulary import Vocabulary

  built = arguments(loop.train, ["config_text"])
  vocabulary = Vocabulary.load(
    built["vocabulary"].path
    or pathlib.Path(built["run_dir"]) / "vocabulary.model"
  )
  corpus = open_corpus(built["mixture"])
  shape, seed = built["batches"], built["seed"]
  space = task_space_of(corpus, built["task_by"])
  found = [
    pair_statistics(
      corpus, pair, vocabulary, num_samples=args.samples, seed=seed
    )
    for pair in corpus.pairs
  ]
  console = rich.console.Console(highlight=False, soft_wrap=True)
  console.print(f"mixture {corpus.name!r}: {corpus.origin}", markup=False)
  lengths = (shape.source_length, shape.target_length)
  console.print(data_tables.pair_table(found, space, lengths))
  console.print(
    f"lengths, too long and odd tokens: of at most {args.samples} examples a"
    " pair"
  )
  if any(row.cleaning for row in found):
    console.print(data_tables.cleaning_table(found))
  console.print(data_tables.language_table(found))

  batches = TrainBatches(
    corpus,
    vocabulary=vocabulary,
    task_space=space,
    batch_size=shape.batch_size,
    rows_per_task_group=shape.rows_per_task_group,
    source_length=shape.source_length,
    target_length=shape.target_length,
    # Unpacked rows have no segments to be told apart by.
    pack=shape.pack,
    seed=seed,
  )
  made = [next(batches) for _ in range(args.batches)]
  data_tables.print_fill(console, batches.stats, args.batches)
  data_tables.print_rows(console, made[0], vocabulary, space, args.rows)
  if args.plot:
    path = data_tables.plot(found, pathlib.Path(args.plot))
    console.print(f"drawn: {path}", markup=False)

"""`taskmoe prune`: smaller mixtures of a run whose text chooses the experts.

  taskmoe prune --run_dir=runs/a --rate=0.5
  taskmoe prune --run_dir=runs/a --rate=0.8 --by=language \\
      --encoder_share=0.75 --tasks=de-en

Such a model is not equivalent to its mixture: its BLEU and chrF are printed
beside the mixture's. Afterwards `taskmoe shrink` can round its weights.
"""

import argparse
from collections.abc import Sequence

from taskmoe_jax.cli import export_flags, flags
from taskmoe_jax.errors import TaskMoeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  export_flags.add_run_flags(parser, "pruned")
  parser.add_argument(
    "--rate",
    type=float,
    required=True,
    help="share of experts to remove, such as 0.5",
  )
  parser.add_argument(
    "--by",
    default="task",
    help="a bundle for each task or pair, or one for all; language: for each"
    " pair, with the encoder's experts of its source, the decoder's of its"
    " target",
  )
  parser.add_argument(
    "--layers",
    default="even",
    help="even: as many experts in every layer; global: where they are needed",
  )
  parser.add_argument(
    "--metric",
    default="importance",
    help="importance, activity or confidence on the validation part; use: load"
    " in training, from metrics.jsonl",
  )
  parser.add_argument(
    "--encoder_share",
    type=float,
    help="share of the kept experts that are in the encoder, such as 0.75",
  )
  parser.add_argument(
    "--examples",
    type=int,
    default=200,
    help="validation sentences of each pair to rank experts on; 200",
  )
  parser.add_argument(
    "--score",
    type=int,
    default=50,
    help="test sentences of each pair to score both models on; 50, 0 for none",
  )
  parser.add_argument(
    "--tsv",
    help="a folder of xx-yy.{dev,test}.tsv[.gz] files, in place of the run's"
    " own text",
  )


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.pruning.choosing import Pruning
  from taskmoe_jax.export.pruning.exporting import export_pruned

  pruning = Pruning.named(
    args.rate,
    by=args.by,
    layers=args.layers,
    metric=args.metric,
    encoder_share=args.encoder_share,
  )
  export_pruned(
    args.run_dir,
    pruning,
    _Text(args.run_dir, args.tsv),
    tasks=args.tasks or "all",
    examples=args.examples,
    scored=args.score,
    out=args.out,
    step=args.step,
    overwrite=args.overwrite,
  )


class _Text:
  """Reads sentences of the run's mixture, or of a folder, when asked."""

  def __init__(self, run_dir: str, tsv: str | None):
    self._run_dir = run_dir
    self._tsv = tsv
    self._mixture = None

  def __call__(
    self, part: str, pairs: Sequence[str], limit: int
  ) -> dict[str, list[tuple[str, str]]]:
    from taskmoe_jax.data.opening import open_corpus
    from taskmoe_jax.evaluate import texts
    from taskmoe_jax.runs.directory import load_run

    space = load_run(self._run_dir).task_space
    if self._tsv:
      text = texts.of_tsv(
        self._tsv, part=part, pairs=pairs, space=space, limit=limit
      )
    else:
      text = texts.of_corpus(
        open_corpus(self._of_run()),
        part=part,
        pairs=pairs,
        space=space,
        limit=limit,
      )
    return {
      pair: list(zip(found.sources, found.references[0], strict=True))
      for pair, found in text.pairs.items()
    }

  def _of_run(self):
    """The mixture that the run's own recipe names."""
    from taskmoe_jax.config.build import arguments
    from taskmoe_jax.evaluate import evaluation

    if self._mixture is None:
      settings = argparse.Namespace(gin_file=[], gin_overrides=[])
      kept = flags.run_config(self._run_dir)
      flags.load(settings, files=["runs/evaluate.gin", kept])
      built = arguments(evaluation.evaluate, ["run_dir"])
      self._mixture = built["mixture"]
    if self._mixture is None:
      raise TaskMoeError(
        f"the recipe of {self._run_dir!r} names no mixture to rank experts on."
        " Set --tsv to a folder of xx-yy.{dev,test}.tsv files."
      )
    return self._mixture

"""`taskmoe export --prune=RATE`: smaller mixtures where text chooses experts.

  taskmoe export --run_dir=runs/a --prune=0.5
  taskmoe export --run_dir=runs/a --prune=0.8 --prune_by=language \\
      --encoder_share=0.75 --tasks=de-en

Such a model is not its mixture: its BLEU and chrF stand beside the mixture's.
"""

import argparse
from collections.abc import Sequence

from taskmoe_jax.cli import flags
from taskmoe_jax.errors import TaskMoeError


def add_flags(parser: argparse.ArgumentParser) -> None:
  group = parser.add_argument_group(
    "pruning, of stacks whose experts are chosen by token or sentence"
  )
  group.add_argument(
    "--prune", type=float, help="share of experts to take away, such as 0.5"
  )
  group.add_argument(
    "--prune_by",
    default="task",
    help="a bundle for each task or pair, or one for all; language: for each"
    " pair, with the encoder's experts of its source, the decoder's of its"
    " target",
  )
  group.add_argument(
    "--prune_layers",
    default="even",
    help="even: as many experts in every layer; global: where they are needed",
  )
  group.add_argument(
    "--prune_metric",
    default="importance",
    help="importance, activity or confidence on the validation part; use: load"
    " in training, from metrics.jsonl",
  )
  group.add_argument(
    "--encoder_share",
    type=float,
    help="share of the kept experts that are in the encoder, such as 0.75",
  )
  group.add_argument(
    "--prune_examples",
    type=int,
    default=200,
    help="validation sentences of each pair to rank experts on; 200",
  )
  group.add_argument(
    "--prune_score",
    type=int,
    default=50,
    help="test sentences of each pair to score both models on; 50, 0 for none",
  )
  group.add_argument(
    "--prune_tsv",
    help="a folder of xx-yy.{dev,test}.tsv[.gz] files, in place of the run's"
    " own text",
  )


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.pruning.choosing import Pruning
  from taskmoe_jax.export.pruning.exporting import export_pruned

  if args.bundle or args.verify or not args.run_dir:
    raise TaskMoeError(
      "--prune prunes the experts of a run. Set --run_dir to it, and leave"
      " --bundle and --verify out."
    )
  if args.formats:
    raise TaskMoeError(
      f"--formats={args.formats}: a pruned model is a mixture of experts, which"
      " no engine of --formats has. Leave --formats out."
    )
  shrinks = args.quantize or args.trim_vocabulary or args.score
  if shrinks or args.whole or args.union or args.check != "auto":
    raise TaskMoeError(
      "--quantize, --trim_vocabulary, --score, --whole, --union and --check do"
      " nothing beside --prune. Leave them out, and set --bundle to a pruned"
      " bundle afterwards."
    )
  pruning = Pruning(
    rate=args.prune,
    by=args.prune_by,
    layers=args.prune_layers,
    metric=args.prune_metric,
    encoder_share=args.encoder_share,
  )
  export_pruned(
    args.run_dir,
    pruning,
    _Text(args.run_dir, args.prune_tsv),
    tasks=args.tasks or "all",
    examples=args.prune_examples,
    scored=args.prune_score,
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
    what = {"part": part, "pairs": pairs, "space": space, "limit": limit}
    if self._tsv:
      text = texts.of_tsv(self._tsv, **what)
    else:
      text = texts.of_corpus(open_corpus(self._of_run()), **what)
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
        " Set --prune_tsv to a folder of xx-yy.{dev,test}.tsv files."
      )
    return self._mixture

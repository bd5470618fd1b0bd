"""`taskmoe export`: extracts the sub-networks of tasks, and proves them.

  taskmoe export --run_dir=runs/a --tasks=de,fr --formats=ctranslate2_int8
  taskmoe export --run_dir=runs/a --union=de,fr
  taskmoe export --bundle=runs/a/export-500/de --formats=huggingface
  taskmoe export --run_dir=runs/a --whole --quantize=int8_int4
  taskmoe export --bundle=runs/a/export-500/de --quantize=int8 --out=small/de
  taskmoe export --verify=runs/a/export-500
  taskmoe export --run_dir=runs/b --prune=0.5

Each bundle is compared with the whole mixture on sentences that the run kept:
its logits must be equal to float32 rounding, and its translations identical.
Each format is loaded by its own engine and compared with the bundle.
"""

import argparse
from typing import Any

from taskmoe_jax.cli.commands import prune
from taskmoe_jax.errors import TaskMoeError


def add_arguments(parser: argparse.ArgumentParser) -> None:
  what = parser.add_argument_group("what to do, one of")
  what.add_argument("--run_dir", help="a run, whose sub-networks to export")
  what.add_argument(
    "--bundle",
    help="a bundle, to which --formats are added, or which is made smaller"
    " (--run_dir says where its run is now)",
  )
  what.add_argument(
    "--verify",
    help="a bundle, or a folder of them, whose files to compare"
    " with their checksums",
  )
  parser.add_argument(
    "--tasks", help="all, or tasks and pairs: de,fr or de-en; a bundle for each"
  )
  parser.add_argument(
    "--union", default="", help="the same: one bundle for all of these together"
  )
  parser.add_argument(
    "--whole",
    action="store_true",
    help="the whole mixture as one bundle, and no sub-network",
  )
  parser.add_argument(
    "--formats",
    default="",
    help="for other engines, such as huggingface,ctranslate2_int8: each a"
    " folder in the bundle",
  )
  parser.add_argument(
    "--check",
    default="auto",
    help="mixture: beside the whole model, on sentences; slices: number by"
    " number, with the memory of the sub-network; auto: what there is room for",
  )
  parser.add_argument(
    "--score",
    type=int,
    default=0,
    metavar="N",
    help="BLEU of the whole model and of each bundle, on N sentences of each"
    " pair that the run was evaluated on; of rounded ones before and after",
  )
  parser.add_argument("--out", help="RUN_DIR/export-STEP unless given")
  parser.add_argument("--step", type=int, help="which checkpoint; the newest")
  parser.add_argument(
    "--overwrite", action="store_true", help="replace what is there"
  )
  _add_shrinking(parser)
  prune.add_flags(parser)


def _add_shrinking(parser: argparse.ArgumentParser) -> None:
  smaller = parser.add_argument_group("to make bundles smaller")
  smaller.add_argument(
    "--trim_vocabulary",
    default="",
    metavar="TEXT",
    help="keep the pieces that this text uses: files, or folders of xx-yy.*.tsv"
    " and xx-yy.*.txt, comma-separated",
  )
  smaller.add_argument(
    "--quantize",
    help="round weights: int8, or int8_int4 (feed-forward networks to 4 bits)",
  )


def _shrinking(args: argparse.Namespace) -> Any:
  from taskmoe_jax.bundles.quantization import quantization_named
  from taskmoe_jax.export.shrinking.shrink import NOTHING, Shrinking

  if not (args.quantize or args.trim_vocabulary):
    return NOTHING
  quantization = quantization_named(args.quantize) if args.quantize else None
  return Shrinking(args.trim_vocabulary, quantization, args.score)


_SMALLER = {"quantize", "trim_vocabulary", "score"}
# What each way of exporting reads.
_READ = {
  "--verify": {"verify"},
  "--bundle with --quantize or --trim_vocabulary": {
    *("bundle", "run_dir", "out", "overwrite"),
    *_SMALLER,
  },
  "--bundle": {"bundle", "run_dir", "formats", "overwrite"},
  "--whole": {"whole", "run_dir", "out", "step", "overwrite", *_SMALLER},
  "--run_dir": {
    *("run_dir", "tasks", "union", "formats", "check", "out", "step"),
    "overwrite",
    *_SMALLER,
  },
}


def _refuse_idle(args: argparse.Namespace, way: str) -> None:
  """Refuses flags that would do nothing."""
  parser = argparse.ArgumentParser()
  add_arguments(parser)
  idle = [
    f"--{name}"
    for name, value in vars(args).items()
    if name in vars(parser.parse_args([]))
    and name not in _READ[way]
    and value != parser.get_default(name)
  ]
  if idle:
    raise TaskMoeError(
      f"{', '.join(idle)} would do nothing beside {way}: it takes"
      f" {', '.join(f'--{name}' for name in sorted(_READ[way]))}. Leave out"
      " what it does not take."
    )


def run(args: argparse.Namespace) -> None:
  if args.prune is not None:
    prune.run(args)
  elif args.verify:
    from taskmoe_jax.bundles.integrity import check_bundles

    _refuse_idle(args, "--verify")
    check_bundles(args.verify)
  elif args.bundle and (args.quantize or args.trim_vocabulary):
    _shrink(args)
  elif args.bundle:
    _add(args)
  elif args.run_dir and args.whole:
    _whole(args)
  elif args.run_dir:
    from taskmoe_jax.export.exporting import export

    _refuse_idle(args, "--run_dir")
    export(
      args.run_dir,
      tasks=args.tasks,
      union=args.union,
      check=args.check,
      score=args.score,
      formats=args.formats,
      out=args.out,
      step=args.step,
      overwrite=args.overwrite,
      shrinking=_shrinking(args),
    )
  else:
    raise TaskMoeError(
      "nothing to export: set --run_dir to a run, --bundle to a bundle that"
      " --formats are added to, or --verify to what is to be compared with its"
      " checksums."
    )


def _shrink(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.shrinking.bundles import shrink_bundle

  if args.formats:
    raise TaskMoeError(
      f"--formats={args.formats} is added to a bundle that is there. First"
      " make the smaller one, then set --bundle to it."
    )
  _refuse_idle(args, "--bundle with --quantize or --trim_vocabulary")
  shrink_bundle(
    args.bundle,
    args.out,
    _shrinking(args),
    run_dir=args.run_dir,
    overwrite=args.overwrite,
  )


def _whole(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.full_model import export_whole

  if args.formats or args.union or args.tasks not in (None, "all"):
    raise TaskMoeError(
      "--whole writes one bundle, of the whole model and in our own format."
      " Leave out --tasks and --union; --formats can be added to the bundle"
      " if it is dense."
    )
  _refuse_idle(args, "--whole")
  export_whole(
    args.run_dir,
    out=args.out,
    step=args.step,
    overwrite=args.overwrite,
    shrinking=_shrinking(args),
  )


def _add(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.formats.folders import add_formats

  if not args.formats:
    raise TaskMoeError(
      f"nothing to add to the bundle {args.bundle!r}. Set --formats."
    )
  _refuse_idle(args, "--bundle")
  added = add_formats(
    args.bundle, args.formats, run_dir=args.run_dir, overwrite=args.overwrite
  )
  for name, said in added.items():
    print(
      f"{args.bundle}/{name}: {said['bytes'] / 1e6:.2f} MB,"
      f" {said['engine']}, scores within {said['max_score_difference']:.1e},"
      f" {said['identical_translations']} of {said['sentences']} translations"
      " identical"
    )

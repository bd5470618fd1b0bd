"""`taskmoe convert`: adds formats for other engines to a bundle.

taskmoe convert --bundle=runs/a/export-500/de --formats=huggingface,stablehlo

Each format is a folder in the bundle; it is loaded by its own engine and
compared with the bundle. `--formats=my.module:MyFormat` is a format of your
own: an object of the module that has the methods of
`taskmoe_jax.export.formats.format.Format`.
"""

import argparse

from taskmoe_jax.cli import export_flags


def add_arguments(parser: argparse.ArgumentParser) -> None:
  export_flags.add_bundle_flags(parser)
  export_flags.add_formats_flag(parser, required=True)


def run(args: argparse.Namespace) -> None:
  from taskmoe_jax.export.formats.folders import add_formats

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

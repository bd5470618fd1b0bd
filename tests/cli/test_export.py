"""`taskmoe export` without anything to do."""

import pytest


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      (),
      "nothing to export: set --run_dir to a run, --bundle to a bundle that"
      " --formats are added to, or --verify to what is to be compared with its"
      " checksums.",
    ),
    (
      ("--bundle=x",),
      "nothing to add to the bundle 'x'. Set --formats.",
    ),
    (
      ("--bundle=x", "--quantize=int8", "--formats=huggingface"),
      "--formats=huggingface is added to a bundle that is there. First make the"
      " smaller one, then set --bundle to it.",
    ),
    (
      ("--run_dir=x", "--whole", "--tasks=de"),
      "--whole writes one bundle, of the whole model and in our own format."
      " Leave out --tasks, and add --formats to the bundle if it is dense.",
    ),
    (
      ("--run_dir=x", "--score=3"),
      "--score=3 counts what making bundles smaller costs. Set --quantize or"
      " --trim_vocabulary, or leave it out.",
    ),
  ],
)
def test_nothing_to_do(flags, message, fails):
  fails(["export", *flags], message)

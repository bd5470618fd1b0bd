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
  ],
)
def test_nothing_to_do(flags, message, fails):
  fails(["export", *flags], message)

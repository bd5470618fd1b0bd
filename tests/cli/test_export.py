"""`taskmoe export`, and what were flags of it: prune, shrink, convert..."""

import shlex
import shutil

import pytest

import taskmoe_jax
from taskmoe_jax.bundles.bundle import read_manifest
from taskmoe_jax.cli.export_flags import current_spelling
from taskmoe_jax.cli.main import main


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      ("export",),
      "the following arguments are required: --run_dir. See `taskmoe export"
      " --help`.",
    ),
    (
      ("prune", "--run_dir=x"),
      "the following arguments are required: --rate. See `taskmoe prune"
      " --help`.",
    ),
    (
      ("convert", "--bundle=x"),
      "the following arguments are required: --formats. See `taskmoe convert"
      " --help`.",
    ),
    (
      ("shrink", "--bundle=x", "--quantize=int8"),
      "the following arguments are required: --out. See `taskmoe shrink"
      " --help`.",
    ),
    (
      ("shrink", "--bundle=x", "--out=y"),
      "nothing to make the bundle 'x' smaller with. Set --quantize or"
      " --trim_vocabulary.",
    ),
    (
      ("verify", "--bundle=x"),
      "'x' holds no bundle. Set --bundle to a folder that `taskmoe export` has"
      " written: a bundle, or a folder of bundles.",
    ),
    (
      ("export", "--run_dir=x", "--whole", "--tasks=de"),
      "--whole writes one bundle, of the whole model and in our own format."
      " Leave out --tasks and --union; --formats can be added to the bundle"
      " if it is dense.",
    ),
    (
      ("export", "--run_dir=x", "--whole", "--check=slices"),
      "--check=slices has no effect with --whole, which compares every number."
      " Leave out --check.",
    ),
  ],
)
def test_mistakes(flags, message, fails):
  fails([*flags], message)


@pytest.mark.parametrize(
  ("flags", "flag", "accepted"),
  [
    (("export", "--run_dir=x"), "--by", "--tasks"),
    (("prune", "--run_dir=x", "--rate=0.5"), "--formats", "--layers"),
    (("prune", "--run_dir=x", "--rate=0.5"), "--quantize", "--metric"),
    (("shrink", "--bundle=x", "--out=y"), "--formats", "--quantize"),
    (("shrink", "--bundle=x", "--out=y"), "--step", "--trim_vocabulary"),
    (("convert", "--bundle=x", "--formats=a"), "--score", "--overwrite"),
    (("verify", "--bundle=x"), "--tasks", "--bundle"),
  ],
)
def test_flags_of_another_command(flags, flag, accepted, capsys):
  assert main([*flags, f"{flag}=1"]) == 2
  error = capsys.readouterr().err
  assert error.startswith(
    f"taskmoe: error: unknown flag '{flag}': accepted are"
  )
  assert f" {accepted}" in error


@pytest.mark.parametrize(
  ("old", "new"),
  [
    (
      ("--run_dir=x", "--prune=0.5", "--prune_by=pair", "--prune_score", "3"),
      "prune --run_dir=x --rate=0.5 --by=pair --score 3",
    ),
    (("--prune=0.5", "--bundle=x"), "prune --rate=0.5 --bundle=x"),
    (("--verify", "runs/a b"), "verify --bundle 'runs/a b'"),
    (
      ("--bundle=x", "--formats=huggingface", "--run_dir=r"),
      "convert --bundle=x --formats=huggingface --run_dir=r",
    ),
    (
      ("--bundle=x", "--quantize=int8", "--out=y"),
      "shrink --bundle=x --quantize=int8 --out=y",
    ),
    (
      ("--trim_vocabulary=t", "--bundle=x", "--out=y"),
      "shrink --trim_vocabulary=t --bundle=x --out=y",
    ),
  ],
)
def test_the_old_spelling_says_what_to_write(old, new, capsys):
  """It then does what the new one does: here, fail for want of a run."""
  assert main(["export", *old]) == 2
  first, error = capsys.readouterr().err.splitlines()
  assert first == (
    f"taskmoe: this is a command of its own now, write: taskmoe {new}"
  )
  assert main(shlex.split(new)) == 2
  assert capsys.readouterr().err.splitlines() == [error]


def test_what_is_still_spelled_export():
  flags = ["--run_dir=x", "--quantize=int8", "--formats=a", "--whole"]
  assert current_spelling(flags) == ("export", flags)


def test_numbers_are_compared_with_the_checkpoint(
  finished_run, taskmoe, tmp_path, capsys
):
  """No model is compiled: nothing is translated."""
  tasks = taskmoe_jax.load(finished_run).task_space.tasks
  taskmoe(
    "export",
    f"--run_dir={finished_run}",
    f"--tasks={tasks[0]}",
    f"--union={tasks[1]},{tasks[0]}",
    "--check=slices",
    f"--out={tmp_path}",
  )
  printed = capsys.readouterr().out
  both = "+".join(tasks[:2])
  assert {path.name for path in tmp_path.iterdir()} == {tasks[0], both}
  for name, number in ((tasks[0], 1), (both, 2)):
    loaded = taskmoe_jax.load(tmp_path / name)
    assert len(loaded.task_space.tasks) == number
    manifest = read_manifest(tmp_path / name)
    assert manifest.tasks == loaded.task_space.tasks
    check = manifest.check
    assert check["by"] == "slices"
    assert check["numbers"] == manifest.parameters.bundle
    assert f"{check['numbers'] / 1e6:.2f}M" in printed
  taskmoe("verify", f"--bundle={tmp_path}")
  assert f"{both}: 3 files, all as they" in capsys.readouterr().out
  # As it was spelled before.
  taskmoe("export", f"--verify={tmp_path}")
  assert f"{both}: 3 files, all as they" in capsys.readouterr().out


@pytest.fixture
def copied(finished_run, tmp_path):
  """A run that may be damaged."""
  return shutil.copytree(finished_run, tmp_path / "run")


def test_a_checkpoint_that_is_still_being_written(copied, fails):
  checkpoints = copied / "checkpoints"
  (checkpoints / "1").rename(checkpoints / "1.orbax-checkpoint-tmp")
  fails(
    ["export", f"--run_dir={copied}"],
    f"'{copied}' has no checkpoint: complete ones are none (1 is still being"
    " written, or its run was killed). Train it first, or set --step to one of"
    " these.",
  )
  assert not list(copied.glob("export*"))


def test_a_vocabulary_of_another_run(copied, fails, finished_run):
  path = copied / "vocabulary.model"
  sums = [taskmoe_jax.load(finished_run).vocabulary.checksum]
  # A field that SentencePiece does not know is passed over.
  path.write_bytes(path.read_bytes() + bytes([0xD0, 0x3E, 1]))
  sums.append(taskmoe_jax.vocabulary.Vocabulary.load(path).checksum)
  fails(
    ["export", f"--run_dir={copied}"],
    f"'{path}' is not the vocabulary of the run: its SHA-256 is"
    f" {sums[1][:12]}..., and run.json says {sums[0][:12]}....",
  )


def test_an_unknown_task_and_an_unknown_check(copied, fails):
  tasks = taskmoe_jax.load(copied).task_space
  known = ", ".join(dict.fromkeys(("all", *tasks.tasks, *tasks.pairs)))
  fails(
    ["export", f"--run_dir={copied}", "--tasks=nobody"],
    f"unknown task 'nobody': accepted are {known}. Set --tasks.",
  )
  fails(
    ["export", f"--run_dir={copied}", "--check=slice"],
    "unknown check 'slice': accepted are auto, mixture, slices (did you mean"
    " 'slices'?). Set --check.",
  )

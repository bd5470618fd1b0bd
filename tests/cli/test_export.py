"""`taskmoe export` of a run: without the whole model, and what it refuses."""

import shutil

import pytest

import taskmoe_jax
from taskmoe_jax.bundles.bundle import read_manifest


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
      " Leave out --tasks and --union; --formats can be added to the bundle"
      " if it is dense.",
    ),
    (
      ("--verify=x", "--tasks=de", "--overwrite"),
      "--tasks, --overwrite would do nothing beside --verify: it takes"
      " --verify. Leave out what it does not take.",
    ),
    (
      ("--bundle=x", "--formats=huggingface", "--score=3"),
      "--score would do nothing beside --bundle: it takes --bundle, --formats,"
      " --overwrite, --run_dir. Leave out what it does not take.",
    ),
    (
      ("--bundle=x", "--quantize=int8", "--step=3"),
      "--step would do nothing beside --bundle with --quantize or"
      " --trim_vocabulary: it takes --bundle, --out, --overwrite, --quantize,"
      " --run_dir, --score, --trim_vocabulary. Leave out what it does not"
      " take.",
    ),
    (
      ("--run_dir=x", "--prune_by=pair"),
      "--prune_by would do nothing beside --run_dir: it takes --check,"
      " --formats, --out, --overwrite, --quantize, --run_dir, --score, --step,"
      " --tasks, --trim_vocabulary, --union. Leave out what it does not take.",
    ),
    (
      ("--run_dir=x", "--whole", "--check=slices"),
      "--check would do nothing beside --whole: it takes --out, --overwrite,"
      " --quantize, --run_dir, --score, --step, --trim_vocabulary, --whole."
      " Leave out what it does not take.",
    ),
  ],
)
def test_nothing_to_do(flags, message, fails):
  fails(["export", *flags], message)


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

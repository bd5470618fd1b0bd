"""`taskmoe export --prune`: its flags, and the text that it reads."""

from taskmoe_jax.cli.commands.prune import _Text
from taskmoe_jax.cli.main import main


def test_text_of_the_runs_own_mixture(finished_run):
  read = _Text(str(finished_run), None)
  first = read("test", ["en-de"], 2)
  assert list(first) == ["en-de"]
  assert len(first["en-de"]) == 2
  # Source, then reference.
  (pair,) = read("test", ["de-en"], 1).values()
  assert all(isinstance(side, str) for side in pair[0])
  assert read("validation", ["en-de"], 2) != first


def test_text_of_a_folder(finished_run, tmp_path):
  (tmp_path / "de-en.dev.tsv").write_text("eins\tone\nzwei\ttwo\n")
  read = _Text(str(finished_run), str(tmp_path))
  assert read("validation", ["en-de"], 1) == {"en-de": [("one", "eins")]}


def test_nothing_to_prune(finished_run, capsys):
  assert main(["export", f"--run_dir={finished_run}", "--prune=0.5"]) == 2
  assert "nothing can be pruned: the encoder is" in capsys.readouterr().err


def test_only_runs_are_pruned(capsys):
  assert main(["export", "--bundle=x", "--prune=0.5"]) == 2
  assert "--prune prunes the experts of a run" in capsys.readouterr().err
  assert main(["export", "--run_dir=x", "--prune=0.5", "--score=3"]) == 2
  assert "do nothing beside" in capsys.readouterr().err
  assert main(["export", "--run_dir=x", "--prune=0.5", "--formats=a"]) == 2
  assert "which no engine of --formats has" in capsys.readouterr().err

"""`taskmoe prune`: its flags, and the text that it reads."""

import pytest

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


@pytest.mark.parametrize(
  "spelling",
  [("prune", "--rate=0.5"), ("export", "--prune=0.5")],
)
def test_nothing_to_prune(spelling, finished_run, capsys):
  command, flag = spelling
  assert main([command, f"--run_dir={finished_run}", flag]) == 2
  assert "nothing can be pruned: the encoder is" in capsys.readouterr().err

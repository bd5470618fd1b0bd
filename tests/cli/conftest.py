import pytest

from taskmoe_jax.cli.main import main


@pytest.fixture
def fails(capsys):
  """Runs a command that must print one line, and nothing else."""

  def run(argv: list[str], message: str) -> None:
    assert main(argv) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", f"taskmoe: error: {message}\n")

  return run

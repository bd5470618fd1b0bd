"""`taskmoe` itself, with fake commands: help, errors and exit statuses."""

import argparse
import os
import pathlib
import re
import subprocess
import sys
import types

import jax
import pytest

import taskmoe_jax
from taskmoe_jax.cli import commands, flags
from taskmoe_jax.cli.main import main
from taskmoe_jax.config import gin_files
from taskmoe_jax.config.build import configured
from taskmoe_jax.errors import TaskMoeError

ROOT = pathlib.Path(__file__).parents[2]
RECIPE = """\
from __gin__ import dynamic_registration
import song_loop

SONG = 'la'
song_loop.sing.song = %SONG
song_loop.sing.num_verses = 2
"""


@pytest.fixture
def command(monkeypatch):
  """Adds the command `sing`, whose `run` a test gives."""

  def command(run, with_gin=False):
    module = types.ModuleType("taskmoe_jax.cli.commands.sing", "Sings a song.")
    module.add_arguments = lambda parser: (
      flags.add_gin_flags(parser)
      if with_gin
      else parser.add_argument("--loudness", type=int)
    )
    module.run = run
    monkeypatch.setitem(sys.modules, "taskmoe_jax.cli.commands.sing", module)
    monkeypatch.setitem(
      commands.COMMANDS,
      "sing",
      commands.Command("sing a song", ("song_loop.sing",)),
    )

  return command


@pytest.fixture
def sing(command, tmp_path, monkeypatch):
  """The command as one would write it, with a recipe and its top function."""
  (tmp_path / "gin" / "recipes").mkdir(parents=True)
  (tmp_path / "gin" / "recipes" / "song.gin").write_text(RECIPE)
  monkeypatch.setattr(gin_files, "gin_folder", lambda: tmp_path / "gin")
  monkeypatch.syspath_prepend(pathlib.Path(__file__).parent)

  def run(args):
    flags.load(args)
    import song_loop

    configured(song_loop.sing)()

  command(run, with_gin=True)


def fails(capsys, argv: list[str], message: str) -> None:
  assert main(argv) == 2
  printed = capsys.readouterr()
  assert printed.out == ""
  assert re.fullmatch(re.escape(message) + ".*", printed.err.rstrip("\n")), (
    printed.err
  )


def test_help_lists_the_commands(capsys):
  assert main(["--help"]) == 0
  printed = capsys.readouterr().out
  for name in (
    "train",
    "evaluate",
    "export",
    "prune",
    "convert",
    "verify",
    "demo",
  ):
    summary = commands.COMMANDS[name].summary
    assert len(re.findall(rf"^  {name} +{summary}$", printed, re.M)) == 1
  assert main([]) == 2
  assert capsys.readouterr().out == printed


def test_version_names_ours_and_those_of_what_runs_a_model(capsys):
  assert main(["--version"]) == 0
  assert re.fullmatch(
    rf"taskmoe {taskmoe_jax.__version__} \(Python 3\.\d+\.\d+,"
    rf" jax {jax.__version__}, jaxlib \S+, flax \S+, optax \S+,"
    r" orbax-checkpoint \S+\)\n",
    capsys.readouterr().out,
  )


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(flag):
  program = f"""
import sys
from taskmoe_jax.cli.main import main
main(["{flag}"])
print({{"gin", "jax", "numpy", "tensorflow"}} & set(sys.modules))
"""
  printed = subprocess.run(
    [sys.executable, "-c", program],
    check=True,
    stdout=subprocess.PIPE,
    cwd=ROOT,
    text=True,
  ).stdout
  assert printed.endswith("set()\n")


def test_the_module_is_a_program():
  run = subprocess.run(
    [sys.executable, "-m", "taskmoe_jax.cli.main", "trian"],
    check=False,
    capture_output=True,
    cwd=ROOT,
    env=os.environ,
    text=True,
  )
  assert run.returncode == 2
  assert run.stderr == (
    "taskmoe: error: unknown command 'trian': accepted are"
    f" {', '.join(commands.COMMANDS)} (did you mean 'train'?).\n"
  )


def test_a_command_runs_with_its_flags(command):
  seen = []
  command(lambda args: seen.append(args.loudness))
  assert main(["sing", "--loudness=3"]) == 0
  assert main(["sing", "--loudness", "-4"]) == 0
  assert seen == [3, -4]


def test_a_command_chooses_its_exit_status(command):
  command(lambda args: 1)
  assert main(["sing"]) == 1


def test_help_of_a_command(command, capsys):
  command(lambda args: None, with_gin=True)
  with pytest.raises(SystemExit) as caught:
    main(["sing", "--help"])
  assert caught.value.code == 0
  printed = capsys.readouterr().out
  assert printed.startswith("usage: taskmoe sing")
  assert "Sings a song." in printed
  assert "--gin_file FILE" in printed


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      ["sing", "--loudnes=3"],
      "unknown flag '--loudnes': accepted are -h, --help, --loudness,"
      " --traceback (did you mean '--loudness'?).",
    ),
    # No abbreviations: a new flag must not change what an old command means.
    (["sing", "--loud=3"], "unknown flag '--loud': accepted are -h, --help"),
    (["sing", "loud"], "unknown argument 'loud': accepted are -h, --help"),
    (["sing", "--gin.SONG=la"], "unknown flag '--gin.SONG': accepted are -h"),
    (
      ["sing", "--loudness=very"],
      "argument --loudness: invalid int value: 'very'. See `taskmoe sing"
      " --help`.",
    ),
  ],
)
def test_mistakes_in_flags(command, capsys, argv, message):
  command(lambda args: None)
  fails(capsys, argv, f"taskmoe: error: {message}")


def test_errors_are_one_line_unless_asked(command, capsys):
  def run(args):
    raise TaskMoeError("there is no song.")

  command(run)
  fails(capsys, ["sing"], "taskmoe: error: there is no song.")
  assert main(["sing", "--traceback"]) == 2
  printed = capsys.readouterr().err
  assert printed.startswith("Traceback (most recent call last):")
  assert "in run\n" in printed
  assert printed.endswith("\ntaskmoe: error: there is no song.\n")


def test_the_lines_that_gin_appends_are_cut(command, capsys):
  def run(args):
    raise TaskMoeError("no song.\n  In call to configurable 'sing'")

  command(run)
  assert main(["sing"]) == 2
  assert capsys.readouterr().err == "taskmoe: error: no song.\n"


def test_bugs_keep_their_traceback(command):
  def run(args):
    raise KeyError("song")

  command(run)
  with pytest.raises(KeyError, match="song"):
    main(["sing"])


def test_an_interruption(command, capsys):
  def run(args):
    raise KeyboardInterrupt

  command(run)
  assert main(["sing"]) == 130
  assert capsys.readouterr().err == "taskmoe: interrupted\n"


def test_a_recipe_with_overrides(sing, capsys):
  assert main(["sing", "--gin_file=recipes/song.gin"]) == 0
  assert (
    main(
      [
        "sing",
        "--gin.SONG=la li lu",
        "--gin_file",
        "recipes/song.gin",
        "--gin.song_loop.sing.num_verses=5",
      ]
    )
    == 0
  )
  assert capsys.readouterr().out == "la x 2\nla li lu x 5\n"


@pytest.mark.parametrize(
  ("argv", "message"),
  [
    (
      [],
      "no gin file. Set --gin_file to one of recipes/song.gin, or to a path.",
    ),
    (
      ["--gin_file=song"],
      "unknown gin file 'song': accepted are recipes/song.gin",
    ),
    (
      ["--gin_file=recipes/song.gin", "--gin.SOMG=do"],
      "bound in gin but read by nothing: SOMG (the command line; did you mean"
      " SONG?).",
    ),
    (
      ["--gin_file=recipes/song.gin", "--gin.SONG", "do"],
      "unknown argument 'do': accepted are",
    ),
    (
      ["--gin_file=recipes/song.gin", "--gin.SONG"],
      "'--gin.SONG' binds nothing: write --gin.NAME=VALUE.",
    ),
    (
      ["--gin_fil=recipes/song.gin"],
      "unknown flag '--gin_fil': accepted are -h, --help, --gin_file,",
    ),
    (
      ["--gin_file=recipes/song.gin", "--gin.SONG=%gin.REQUIRED"],
      "sing needs a value for SONG. Bind in a gin file, or as"
      " --gin.SONG=VALUE.",
    ),
  ],
)
def test_mistakes_in_gin_flags(sing, capsys, argv, message):
  fails(capsys, ["sing", *argv], f"taskmoe: error: {message}")


def test_files_before_those_of_the_command_line(sing, tmp_path, capsys):
  """As `evaluate` reads the recipe of a run, to be changed by flags."""
  (tmp_path / "later.gin").write_text("SONG = 'later'")
  args = argparse.Namespace(
    gin_file=[str(tmp_path / "later.gin")], gin_overrides=[]
  )
  flags.load(args, files=["recipes/song.gin"])
  import song_loop

  configured(song_loop.sing)()
  assert capsys.readouterr().out == "later x 2\n"

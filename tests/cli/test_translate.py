"""`taskmoe translate`, with a bundle of random parameters."""

import pathlib
import subprocess
import sys

import pytest

import taskmoe_jax
from taskmoe_jax.cli.main import main
from taskmoe_jax.decoding.translations import Hypothesis, Translations
from taskmoe_jax.decoding.translator import Translator

ROOT = pathlib.Path(__file__).parents[2]
LINES = "the cat\n\nand the hat\ncat and the hat\n"


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_translate(bundle_folder, stdin, tmp_path, capsys, end):
  """From standard input and from a file, line by line."""
  data = LINES.replace("\n", end).encode()
  expected = taskmoe_jax.load(bundle_folder).translate(
    LINES.splitlines(), "en-fr"
  )
  assert len(set(expected)) == len(expected)
  assert expected[1] == ""
  flags = ["translate", f"--bundle={bundle_folder}", "--pair=en-fr"]

  stdin(data)
  assert main(flags) == 0
  assert capsys.readouterr().out.split("\n") == [*expected, ""]

  (tmp_path / "lines.txt").write_bytes(data)
  assert main([*flags, f"--input={tmp_path}/lines.txt", "--batch_size=2"]) == 0
  assert capsys.readouterr().out.split("\n") == [*expected, ""]


def test_translate_of_nothing(bundle_folder, stdin, capsys):
  stdin(b"")
  assert main(["translate", f"--bundle={bundle_folder}", "--pair=en-de"]) == 0
  assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      [],
      "which pair to translate is not clear: accepted are en-de, en-fr. Set"
      " --pair.",
    ),
    (
      ["--pair=en-ed"],
      "unknown task 'ed': accepted are de, fr.",
    ),
    (
      ["--pair=de"],
      "'de' is not a pair: write source and target language with one dash,"
      " such as 'de-en'.",
    ),
    (
      ["--pair=en-de", "--batch_size=0"],
      "batch_size=0 is not at least 1. Set --batch_size.",
    ),
    (
      ["--batch_size=many"],
      "argument --batch_size: invalid int value: 'many'. See `taskmoe translate"
      " --help`.",
    ),
    (
      ["--run_dir=runs/a"],
      "argument --run_dir: not allowed with argument --bundle. See `taskmoe"
      " translate --help`.",
    ),
    (
      ["--pair=en-de", "--n_best=2"],
      "n_best=2: greedy search has one translation of a line. Set --beam_size"
      " or --temperature.",
    ),
    (
      ["--length_penalty=1"],
      "--length_penalty belongs to beam search. Set --beam_size.",
    ),
    (["--top_k=3"], "--top_k belongs to sampling. Set --temperature."),
    (
      ["--beam_size=2", "--temperature=1"],
      "--beam_size and --temperature are different searches. Set one of them.",
    ),
    (
      ["--beam_size=2", "--n_best=3"],
      "n_best=3 is more than the beam's size=2. Set Beam.n_best or Beam.size.",
    ),
    (
      ["--pair=en-de", "--max_source=2"],
      "1 of the lines have more than 2 tokens: line 1 (9). Split them, raise"
      " --max_source (Lengths.max_source), or cut them with --truncate"
      " (Lengths.truncate).",
    ),
    (
      ["--pair=en-de", "--prefixes=/dev/null"],
      "1 lines have 0 prefixes: one each is wanted, empty where there is none."
      " Set --prefixes.",
    ),
    (
      ["--pair=en-de", "--targets=/dev/null"],
      "1 sources have 0 targets: one each is wanted. Set --targets.",
    ),
    (
      ["--input=no.txt"],
      "cannot read 'no.txt' (No such file or directory). Set --input.",
    ),
  ],
)
def test_mistakes_of_translate(bundle_folder, stdin, fails, flags, message):
  stdin(b"the cat\n")
  fails(["translate", f"--bundle={bundle_folder}", *flags], message)


def test_translate_needs_a_model(fails):
  fails(
    ["translate"],
    "one of the arguments --bundle --run_dir is required. See `taskmoe"
    " translate --help`.",
  )


def test_translate_names_the_line_that_is_no_utf_8(
  bundle_folder, stdin, tmp_path, fails
):
  data = b"the cat\nGr\xf6\xdfe\n"
  reason = (
    "line 2 is not UTF-8: 'utf-8' codec can't decode byte 0xf6 in position 2:"
    " invalid start byte."
  )
  flags = ["translate", f"--bundle={bundle_folder}"]
  stdin(data)
  fails(flags, f"standard input {reason}")
  path = tmp_path / "latin.txt"
  path.write_bytes(data)
  fails([*flags, f"--input={path}"], f"{path} {reason}")


def test_a_folder_that_is_no_bundle(tmp_path, stdin, fails):
  stdin(b"the cat\n")
  fails(
    ["translate", f"--bundle={tmp_path}"],
    f"{str(tmp_path)!r} is not a bundle: it has no manifest.json. Name a folder"
    " that `taskmoe export` has written.",
  )


def test_a_line_break_in_a_translation_breaks_no_line(
  bundle_folder, stdin, capsys, monkeypatch
):
  found = Translations(
    [[Hypothesis(text, [1], 0.0, True)] for text in ("a\nb", "c\u2028d")]
  )
  monkeypatch.setattr(Translator, "decode", lambda *_, **__: found)
  stdin(b"the cat\nthe hat\n")
  flags = ["translate", f"--bundle={bundle_folder}", "--pair=en-fr"]
  assert main(flags) == 0
  assert capsys.readouterr().out == "a b\nc d\n"


# More than a pipe holds, of which nothing needs to be decoded.
_MUCH_OUTPUT = """
import sys
from taskmoe_jax.cli.main import main
from taskmoe_jax.decoding.translations import Hypothesis, Translations
from taskmoe_jax.decoding.translator import Translator

much = [[Hypothesis("word " * 10, [1], 0.0, True)]] * 20_000
Translator.decode = lambda *_, **__: Translations(much)
sys.exit(main())
"""


def test_nobody_reads_the_output(bundle_folder, tmp_path):
  """As with `| head -1`: no traceback."""
  lines = tmp_path / "lines.txt"
  lines.write_text("the cat\n")
  flags = [f"--bundle={bundle_folder}", "--pair=en-fr", f"--input={lines}"]
  process = subprocess.Popen(
    [sys.executable, "-c", _MUCH_OUTPUT, "translate", *flags],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=ROOT,
  )
  assert process.stdout.readline() == b"word " * 10 + b"\n"
  process.stdout.close()
  assert process.stderr.read() == b""
  process.stderr.close()
  assert process.wait() == 141

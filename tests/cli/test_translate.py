"""`taskmoe translate`, with a bundle of random parameters."""

import io
import pathlib
import subprocess
import sys

import jax
import pytest
import sentencepiece
from flax import linen as nn

import taskmoe_jax
from taskmoe_jax.cli.main import main
from taskmoe_jax.decoding.search import Beam, Lengths, Sampling
from taskmoe_jax.decoding.translations import Hypothesis, Translations
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.export import bundle
from taskmoe_jax.models.config import ModelConfig, StackConfig
from taskmoe_jax.models.transformer import Transformer
from taskmoe_jax.task_space import TaskSpace
from taskmoe_jax.train import state
from taskmoe_jax.vocabulary import Vocabulary

ROOT = pathlib.Path(__file__).parents[2]
PIECES = 15
# Of random parameters whose translations differ from line to line.
_SEED = 8


def vocabulary() -> Vocabulary:
  model = io.BytesIO()
  sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(["the cat and the hat"] * 20),
    model_writer=model,
    vocab_size=PIECES,
    user_defined_symbols=["<2de>", "<2fr>"],
    pad_id=0,
    eos_id=1,
    unk_id=2,
    bos_id=-1,
    minloglevel=2,
  )
  return Vocabulary(model.getvalue())


@pytest.fixture(scope="module")
def bundle_folder(tmp_path_factory) -> str:
  """A dense model of random parameters, from English to two languages."""
  stack = StackConfig(num_layers=1, mlp_dims=(12,))
  config = ModelConfig(
    vocab_size=PIECES,
    embed_dim=8,
    num_heads=2,
    head_dim=6,
    activation="relu",
    embeddings="one",
    encoder=stack,
    decoder=stack,
  )
  space = TaskSpace(("en", "de", "fr"), ("en-de", "en-fr"))
  shapes = nn.unbox(state.abstract_params(Transformer(config, 2)))
  leaves, tree = jax.tree.flatten(shapes)
  keys = jax.random.split(jax.random.key(_SEED), len(leaves))
  params = tree.unflatten(
    jax.random.normal(key, leaf.shape)
    for key, leaf in zip(keys, leaves, strict=True)
  )
  target = tmp_path_factory.mktemp("bundles") / "small"
  with bundle.new_folder(target, overwrite=False) as folder:
    bundle.write_model(folder, Translator(config, params, space, vocabulary()))
    bundle.write_manifest(folder, {"task": "de"})
  return str(target)


@pytest.fixture
def stdin(monkeypatch):
  """Gives bytes to standard input."""
  return lambda data: monkeypatch.setattr(
    sys, "stdin", io.TextIOWrapper(io.BytesIO(data))
  )


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
      "--length_penalty is of beam search. Set --beam_size.",
    ),
    (["--top_k=3"], "--top_k is of sampling. Set --temperature."),
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
    f"{str(tmp_path)!r} is no bundle: it has no manifest.json. Name a folder"
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


@pytest.mark.parametrize(
  ("flags", "search"),
  [
    (
      ["--beam_size=3", "--n_best=2"],
      Beam(size=3, length_penalty=0.6, n_best=2),
    ),
    (
      [
        "--beam_size=2",
        "--length_penalty=1",
        "--normalization=power",
        "--stopping=full",
      ],
      Beam(size=2, length_penalty=1.0, normalization="power", stopping="full"),
    ),
    (
      ["--temperature=0.7", "--top_k=5", "--top_p=0.9", "--seed=3"],
      Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=3),
    ),
  ],
)
def test_searches(
  bundle_folder, stdin, tmp_path, capsys, quick_compilation, flags, search
):
  """Number, score and text; lengths and prefixes are passed on."""
  (tmp_path / "prefixes.txt").write_text("hat\n\n")
  stdin(b"the cat\nand the hat\n")
  expected = taskmoe_jax.load(bundle_folder).decode(
    ["the cat", "and the hat"],
    "en-fr",
    search=search,
    batch_size=32,
    lengths=Lengths(max_source=4, truncate=True, max_target=5),
    prefixes=["hat", ""],
  )
  command = ["translate", f"--bundle={bundle_folder}", "--pair=en-fr"]
  command += ["--max_source=4", "--truncate", "--max_target=5", "--scores"]
  command.append(f"--prefixes={tmp_path}/prefixes.txt")
  assert main([*command, *flags]) == 0
  printed = capsys.readouterr().out.splitlines()
  wanted = [
    "\t".join(
      [str(number)] * (search.n_best > 1) + [f"{found.score:.6f}", found.text]
    )
    for number, hypotheses in enumerate(expected.n_best, start=1)
    for found in hypotheses
  ]
  assert printed == wanted


def test_scores_of_targets(bundle_folder, stdin, tmp_path, capsys):
  (tmp_path / "targets.txt").write_text("the hat\n\n")
  stdin(b"the cat\nand the hat\n")
  command = ["translate", f"--bundle={bundle_folder}", "--pair=en-fr"]
  assert main([*command, f"--targets={tmp_path}/targets.txt"]) == 0
  expected = taskmoe_jax.load(bundle_folder).score(
    ["the cat", "and the hat"], ["the hat", ""], "en-fr"
  )
  printed = capsys.readouterr().out.splitlines()
  assert printed == [f"{score.total:.6f}" for score in expected]


def test_nobody_reads_the_output(bundle_folder, tmp_path):
  """As with `| head -1`: no traceback."""
  lines = tmp_path / "lines.txt"
  lines.write_text("the cat and the hat\n" * 20_000)
  flags = [f"--bundle={bundle_folder}", "--pair=en-fr", f"--input={lines}"]
  program = [sys.executable, "-m", "taskmoe_jax.cli.main", "translate", *flags]
  process = subprocess.Popen(
    [*program, "--batch_size=4096"],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    cwd=ROOT,
  )
  process.stdout.readline()
  process.stdout.close()
  assert process.stderr.read() == b""
  process.stderr.close()
  assert process.wait() == 141

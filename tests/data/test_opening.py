import pathlib
import re

from taskmoe_jax.data.opening import open_corpus

PACKAGE = pathlib.Path(__file__).parents[2] / "taskmoe_jax"
# Each is the top function of a command; whatever they call takes the corpus.
OPENING = {
  "cli/commands/data.py",
  "cli/commands/inspect.py",
  "cli/commands/precompile.py",
  "cli/commands/prune.py",
  "data/cache/writing.py",
  "data/text/vocabulary_training.py",
  "evaluate/evaluation.py",
  # The folder that --tsv names, which is no recipe's mixture.
  "evaluate/texts.py",
  "train/loop.py",
}


def test_only_the_top_functions_of_commands_open_a_corpus():
  calling = {
    str(path.relative_to(PACKAGE)): len(
      re.findall(r"\bopen_corpus\(", path.read_text())
    )
    for path in PACKAGE.rglob("*.py")
    if path.name != "opening.py"
  }
  assert {path: n for path, n in calling.items() if n} == dict.fromkeys(
    OPENING, 1
  )


def test_a_corpus_is_opened_as_itself(mixture_of):
  corpus = open_corpus(mixture_of({"de-en": {"train": [("haus", "house")]}}))
  assert corpus.pairs == ("de-en",)
  assert open_corpus(corpus) is corpus

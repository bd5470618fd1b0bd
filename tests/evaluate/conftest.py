"""An evaluation whose translator needs no model: it looks sentences up."""

import io

import pytest
import rich.console
from etils import epath

from taskmoe_jax.decoding.search import GREEDY
from taskmoe_jax.decoding.translations import Hypothesis, Translations
from taskmoe_jax.decoding.translator import Translator
from taskmoe_jax.evaluate import evaluation
from taskmoe_jax.evaluate.scores import Scoring
from taskmoe_jax.evaluate.translating import Evaluated
from taskmoe_jax.task_space import TaskSpace

GERMAN = [
  "Der Hund schläft heute lange.",
  "Ja.",
  "Eins, zwei, drei, vier, fünf.",
  "Wir gehen nach Hause <b>jetzt</b>.",
]
ENGLISH = [
  "The dog sleeps long today.",
  "Yes.",
  "One, two, three, four, five.",
  "We are going home <b>now</b>.",
]
FRENCH = ["Le chien dort.", "Oui.", "Un, deux, trois, quatre.", "On rentre."]


class Lookup(Translator):
  """Translates by a table, and what is not in it as itself.

  Attributes:
    calls: The pairs that were translated, in order.
    dies_at: A pair at which the process is killed.
  """

  def __init__(self, table=()):
    languages = ("en", "de", "fr")
    pairs = ("en-de", "de-en", "en-fr", "fr-en")
    self.task_space = TaskSpace(languages, pairs)
    self.table = dict(table)
    self.calls = []
    self.dies_at = None

  def decode(self, lines, pair, *, batch_size, search, lengths, progress):
    if pair == self.dies_at:
      raise KeyboardInterrupt
    self.calls.append(pair)
    progress(len(lines))
    return Translations(
      [
        [Hypothesis(self.table.get(line, line), [5, 6, 1], 0.0, line != "Ja.")]
        for line in lines
      ]
    )


@pytest.fixture(name="folder")
def fixture_folder(tmp_path):
  """A folder of text with two directions of German and of French."""
  folder = tmp_path / "text"
  folder.mkdir()
  for language, lines in (("de", GERMAN), ("fr", FRENCH)):
    (folder / f"en-{language}.test.tsv").write_text(
      "".join(f"{a}\t{b}\n" for a, b in zip(ENGLISH, lines, strict=True))
    )
  return folder


@pytest.fixture(name="lookup")
def fixture_lookup():
  table = dict(zip(GERMAN, ENGLISH, strict=True))
  return Lookup({**table, GERMAN[0]: "The\ndog sleeps <i>long</i> today."})


@pytest.fixture(name="evaluated")
def fixture_evaluated(monkeypatch, folder, lookup, tmp_path):
  """Evaluates; returns the results, where they are, and what was printed."""

  def evaluated(
    *,
    model="model",
    fingerprint="one",
    scoring=None,
    translator=None,
    **changes,
  ):
    monkeypatch.setattr(
      evaluation,
      "load_evaluated",
      lambda **_: Evaluated(
        translator or lookup, epath.Path(tmp_path / model), 7, fingerprint
      ),
    )
    console = rich.console.Console(file=io.StringIO(), width=100)
    values = {
      "mixture": None,
      "run_dir": tmp_path / model,
      "part": "test",
      "examples": None,
      "batch_size": 3,
      "mesh": None,
      "search": GREEDY,
      "scoring": Scoring(
        metrics=("bleu", "chrf"), tokenizer="intl", bootstrap=20
      ),
      "high_resource": ("de",),
      "tsv": str(folder),
      "console": console,
    }
    if scoring:
      values["scoring"] = scoring
    results = evaluation.evaluate(**{**values, **changes})
    return results, console.file.getvalue()

  return evaluated

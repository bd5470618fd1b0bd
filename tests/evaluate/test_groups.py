import pytest

from taskmoe_jax.data.opening import open_corpus
from taskmoe_jax.errors import TaskMoeError
from taskmoe_jax.evaluate import groups

# The paper's 32 directions (Table 3); German-French are zero-shot.
HIGH = ("cs", "fr", "ru", "zh", "es", "fi", "de", "et")
LOW = ("lv", "lt", "ro", "hi", "kk", "tr", "gu")
TRAINED = [pair for name in HIGH + LOW for pair in (f"{name}-en", f"en-{name}")]
ZERO_SHOT = ["de-fr", "fr-de"]


def test_groups_of_the_paper():
  """Its averages are over 32, 15, 15, 18 and 14 directions."""
  found = groups.groups_of(
    [*TRAINED, *ZERO_SHOT], trained=TRAINED, high_resource=HIGH
  )
  assert {name: len(pairs) for name, pairs in found.items()} == {
    "all": 32,
    "supervised": 30,
    "xx-en": 15,
    "en-xx": 15,
    "high": 18,
    "high-supervised": 16,
    "low": 14,
    "zero-shot": 2,
  }
  assert list(found) == [name for name in groups.GROUPS if name in found]
  assert found["supervised"] == TRAINED
  assert found["zero-shot"] == ZERO_SHOT
  assert set(found["high"]) - set(found["high-supervised"]) == set(ZERO_SHOT)


def test_a_pair_is_as_rich_as_its_poorer_language():
  found = groups.groups_of(
    ["de-lt", "de-en"], trained=["de-lt", "de-en"], high_resource=["de"]
  )
  assert found == {
    "all": ["de-lt", "de-en"],
    "xx-en": ["de-en"],
    "high": ["de-en"],
    "low": ["de-lt"],
  }


def test_groups_without_pairs_are_left_out():
  found = groups.groups_of(["fr-de"], trained=[], high_resource=None)
  assert found == {"all": ["fr-de"], "zero-shot": ["fr-de"]}


@pytest.fixture
def mixture(tmp_path):
  """German with 3 pairs of training text, French with 1, Lithuanian none."""
  from taskmoe_jax.tasks.tsv import tsv

  for name, lines in (
    ("en-de.train", 3),
    ("en-fr.train", 1),
    ("en-fr.test", 5),
    ("en-lt.test", 5),
  ):
    (tmp_path / f"{name}.tsv").write_text("a\tb\n" * lines)
  return tsv(str(tmp_path), vocabulary=None, temperature=1.0)


def test_resources_are_those_of_the_training_text(mixture, tmp_path):
  trained = {"en-de", "de-en", "en-fr", "fr-en"}
  assert set(groups.trained_pairs(open_corpus(mixture))) == trained
  assert groups.high_resource_languages(open_corpus(mixture), 1) == (["de"], [])
  assert groups.high_resource_languages(open_corpus(mixture), 3) == ([], [])


def test_text_that_is_not_here(mixture, tmp_path):
  (tmp_path / "en-de.train.tsv").unlink()
  languages, (note,) = groups.high_resource_languages(open_corpus(mixture), 1)
  assert languages is None
  assert note.startswith("no averages by resources: ")
  assert note.endswith("--high_resource=de,fr.")


def test_endless_text_has_no_resources():
  from taskmoe_jax.tasks.cldr import cldr_30

  mixture = cldr_30(None, seed=0, temperature=1.0, languages=("de",))
  assert groups.high_resource_languages(open_corpus(mixture), 1) == (None, [])


def test_a_misspelt_language():
  with pytest.raises(TaskMoeError) as caught:
    groups.check_languages(["de", "fi", "fr"], ["de-en", "fr-de"])
  assert str(caught.value) == (
    "high-resource language 'fi' is in no pair of the model or the text:"
    " accepted are de, en, fr. Set --high_resource."
  )
